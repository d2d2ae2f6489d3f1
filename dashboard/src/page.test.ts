import { describe, expect, it } from "vitest";
import { moveSpan } from "./components/touch";
import { fill, TEXTS } from "./text";
import { clockTime, dateTime, span, zoneOffsetMs } from "./time";
import { parseView, writeView } from "./view";

describe("view", () => {
  it("comes from the address and goes back into it", () => {
    const view = parseView("?range=24h&device=u01&lang=kk&theme=dark&from=10&to=20&q=al&page=3", [
      "en",
    ]);
    expect(view).toEqual({
      range: "24h",
      device: "u01",
      language: "kk",
      theme: "dark",
      zoom: { from: 10, to: 20 },
      search: "al",
      sort: "",
      page: 2,
      wall: false,
    });
    expect(parseView(writeView(view, ["en"]), ["en"])).toEqual(view);
    expect(writeView(parseView("", ["ru-RU"]), ["ru-RU"])).toBe("");
  });
  it("takes nonsense for nothing", () => {
    const view = parseView("?range=x&lang=constructor&theme=<b>&from=9&to=3&page=x", [
      "de",
      "ru-KZ",
    ]);
    expect(view).toMatchObject({
      range: "15m",
      language: "ru",
      theme: "auto",
      zoom: null,
      page: 0,
    });
    expect(parseView("", []).language).toBe("en");
  });
});

describe("texts", () => {
  it.each(["ru", "kk"] as const)("%s has the places of English", (language) => {
    const places = (text: string) => (text.match(/\{\w+\}/g) ?? []).sort();
    for (const key of Object.keys(TEXTS.en) as (keyof typeof TEXTS.en)[]) {
      expect(places(TEXTS[language][key]), key).toEqual(places(TEXTS.en[key]));
      expect(TEXTS[language][key]).not.toBe("");
    }
  });
  it("fills in places", () => {
    expect(fill("{a} {b} {c}", { a: 1, b: "{a}" })).toBe("1 {a} {c}");
  });
});

describe("time", () => {
  const zone = { name: "Asia/Almaty", language: "en" } as const;
  it("is the station's", () => {
    expect(clockTime(1_700_000_000, zone)).toBe("04:13:20");
    expect(dateTime(1_700_000_000, zone)).toContain("2023");
    expect(zoneOffsetMs(1_700_000_000, zone)).toBe(6 * 3_600_000);
  });
  it("is UTC where the browser does not know the zone", () => {
    expect(clockTime(0, { name: "Mars/Base", language: "en" })).toBe("00:00:00");
  });
  it("is told in one unit", () => {
    const words = [5, 300, 10_800, 400_000, -3].map((seconds) => span(seconds, TEXTS.en));
    expect(words).toEqual(["5 s", "5 min", "3 h", "5 d", "0 s"]);
  });
});

describe("touch", () => {
  const whole = { from: 0, to: 100 };
  it("pans with one finger and zooms with two", () => {
    expect(moveSpan(whole, [100], [50], 200)).toEqual({ from: 25, to: 125 });
    expect(moveSpan(whole, [50, 150], [0, 200], 200)).toEqual({ from: 25, to: 75 });
    expect(moveSpan(whole, [100], [101], 200)).toBeNull();
    expect(moveSpan(whole, [], [], 200)).toBeNull();
  });
});
