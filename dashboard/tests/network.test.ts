/** The network page in a real browser, before real Kinto with the plugin, live stream and nginx. */

import type { Browser, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { accessible, launch, openPage, Rig, type Watch } from "./station";

const WAIT = { timeout: 60_000 };
let hub: Rig;
let browser: Browser;
let page: Page;
let watch: Watch;

async function login(on: Page, password = hub.password): Promise<void> {
  await on.fill("[autocomplete=username]", "reader");
  await on.fill("[type=password]", password);
  await on.keyboard.press("Enter");
}

const row = (device: string, on = page) => on.waitForSelector(`tr[data-station="${device}"]`, WAIT);

beforeAll(async () => {
  hub = await Rig.start("hub.py", ["coarse"]);
  browser = await launch();
  [page, watch] = await openPage(browser, hub.url, { viewport: { width: 1280, height: 900 } });
});

afterAll(async () => {
  await browser.close();
  await hub.stop();
});

describe("the network page", () => {
  it("asks for a reader's account, and says when it is wrong", async () => {
    await page.waitForSelector("form.login", WAIT);
    expect(await accessible(page)).toEqual([]);
    await login(page, "nonsense");
    await page.waitForSelector(".alarm", WAIT);
    await login(page);
    await row("almaty1");
    await page.reload();
    await row("almaty2");
    watch.errors.length = 0;
  });

  it("accounts for every package, over all devices of a station", async () => {
    await expect.poll(() => page.textContent('tr[data-station="almaty1"]'), WAIT).toMatch(/200/);
    await page.click('tr[data-station="almaty1"] a');
    await page.waitForSelector(".accounting:has-text('Packages numbered: 399')", WAIT);
    expect(await page.textContent(".accounting")).toContain("at the hub: 398, not at the hub: 1");
    await hub.tell(
      `report almaty ${JSON.stringify({ epoch: "E", last_seq: 400, pending: { hub: 0 } })}`,
    );
  });

  it("shows a new package of a station within two seconds, in values and charts", async () => {
    await page.waitForSelector(".mark.live:has-text('live stream')", WAIT);
    await page.waitForSelector("[data-field=temperature] canvas", WAIT);
    const took: number[] = [];
    for (let seq = 401; seq <= 420; seq += 2) {
      const begun = performance.now();
      await hub.tell(`send almaty1 ${seq} ${JSON.stringify({ mark: seq })}`);
      await page.waitForSelector(`dl [data-field=mark] dd:has-text("${seq}")`, WAIT);
      took.push(performance.now() - begun);
    }
    took.sort((a, b) => a - b);
    console.log(`hub to screen, ms: ${took.map(Math.round).join(" ")}`);
    expect(took[5]).toBeLessThan(2000);
  });

  it("shows a place only as precisely as the operator allows", async () => {
    await page.waitForSelector(".world circle", WAIT);
    const text = (await page.textContent("body")) ?? "";
    expect(text).not.toContain("43.27");
    expect(text).not.toContain("43,27");
    expect(await page.$("#track-title")).toBeNull();
  });

  it("hands out the records with the balance of the packages", async () => {
    const [download] = await Promise.all([
      page.waitForEvent("download", WAIT),
      page.click('button:has-text("Download CSV")'),
    ]);
    let text = "";
    for await (const part of await download.createReadStream()) text += String(part);
    const lines = text.trim().split("\r\n");
    expect(lines[0]).toMatch(/^received_at,timestamp,devID,seq,/);
    expect(lines.at(-1)).toMatch(/^# almaty1 epoch .*: sent \d+, stored \d+, on the way 0, lost/);
    expect(text).not.toContain("43.27");
  });

  it("says why a station is silent", async () => {
    await hub.tell("silence quiet 7200");
    await row("quiet");
    await page.click('tr[data-station="quiet"] a');
    await page.waitForSelector(".warning:has-text('It sends no reports')", WAIT);
    for (const [report, sentence] of [
      [{ problems: ["port usb-UniSat is gone: plug it in"] }, "port usb-UniSat is gone"],
      [{ pending: { hub: 12 } }, "wait there: 12"],
      [{ clock: "unsynced" }, "does not know the time"],
      [{ update: { phase: "switching" } }, "was being updated"],
      [{ power: "low" }, "power was bad"],
      [{}, "waits for its device"],
    ] as const) {
      await hub.tell(`report quiet ${JSON.stringify({ epoch: "quiet", ...report })}`);
      await page.waitForSelector(`.warning:has-text("${sentence}")`, WAIT);
    }
  });

  it("puts stations side by side, and keeps the view in the address", async () => {
    await page.click("button:text-is('Close')");
    await page.check('tr[data-station="almaty1"] input');
    await page.check('tr[data-station="almaty2"] input');
    await expect.poll(() => page.url()).toContain("device=almaty1%2Calmaty2");
    await page.waitForSelector("[data-field=temperature] canvas", WAIT);
    await page.focus("[data-field=temperature] .plot");
    // The charts come with the first answer, and the second device with its own.
    const read = async () => {
      await page.keyboard.press("End");
      await page.keyboard.press("ArrowLeft");
      return page.textContent("[data-field=temperature] .reading");
    };
    await expect.poll(read, WAIT).toMatch(/almaty1 .*almaty2/);
  });

  it("is accessible in light and dark, on a telephone and on a projector", async () => {
    const state = await page.evaluate(() => sessionStorage.getItem("unisat-login"));
    for (const [search, width, height] of [
      ["?theme=light&device=almaty1", 1280, 900],
      ["?theme=dark&lang=ru&device=almaty1,quiet", 390, 844],
      ["?theme=light&lang=kk", 320, 640],
      ["?theme=dark&wall=1", 1920, 1080],
    ] as const) {
      const [other] = await openPage(browser, hub.url, {
        viewport: { width, height },
        reducedMotion: "reduce",
      });
      await other.evaluate((value) => {
        sessionStorage.setItem("unisat-login", value ?? "");
      }, state);
      await other.goto(`${hub.url}/${search}`);
      await other.waitForSelector(".world .land:not([d=''])", WAIT);
      if (search.includes("device=")) await other.waitForSelector(".accounting table", WAIT);
      for (const summary of await other.$$("summary")) await summary.click();
      expect(await accessible(other)).toEqual([]);
      const wide = await other.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      expect(wide, `${width} pixels: too wide`).toBeLessThanOrEqual(0);
      if (width === 390) {
        const mark = await other.locator('tr[data-station="almaty1"] .mark').boundingBox();
        expect((mark?.x ?? NaN) + (mark?.width ?? NaN), "the state").toBeLessThanOrEqual(width);
      }
      await other.context().close();
    }
  });

  it("is used by keyboard alone", async () => {
    await page.goto(hub.url);
    await row("almaty1");
    for (let i = 0; i < 60; i++) {
      await page.keyboard.press("Tab");
      if (await page.evaluate(() => document.activeElement?.textContent === "almaty2")) break;
    }
    await page.keyboard.press("Enter");
    await expect.poll(() => page.url()).toContain("device=almaty2");
    await page.waitForSelector("#chosen-title:has-text('almaty2')", WAIT);
  });

  it("says that the hub is away, goes on with what it has, and comes back", async () => {
    await hub.tell("stop-kinto");
    await page.waitForSelector(".alarm:has-text('has not answered')", WAIT);
    await row("almaty1");
    await hub.tell("start-kinto");
    const away = ".alarm:has-text('has not answered')";
    await page.waitForSelector(away, { ...WAIT, state: "detached" });
    await page.waitForSelector(".mark.live:has-text('live stream')", WAIT);
    watch.errors = watch.errors.filter((text) => !/50[0-9]/.test(text));
  });

  it("never said an error, and asked nobody else", () => {
    expect(watch.errors).toEqual([]);
    expect(watch.foreign).toEqual([]);
  });

  it("is fluid with ten thousand stations in the table and on the map", async () => {
    const [other] = await openPage(browser, "about:blank");
    const now = Math.floor(Date.now() / 1000);
    const rows = Array.from({ length: 10_000 }, (_, i) => ({
      id: `u${String(i).padStart(5, "0")}`,
      records: i * 7,
      last_modified: now * 1000 + i,
      newest: {
        devID: `u${String(i).padStart(5, "0")}`,
        timestamp: now - (i % 50 === 0 ? 4000 : i % 20),
        epoch: `e${i}`,
        seq: i,
        temperature: (i % 400) / 10,
        lat: 40 + (i % 100) / 10,
        long: 50 + Math.floor(i / 100) / 4,
      },
    }));
    await other.route("**/telemetry/latest", (route) => route.fulfill({ json: { data: rows } }));
    await other.goto(`${hub.url}/?q=u`);
    await row("u00000", other);
    await other.waitForSelector("tr[data-station]:nth-child(50)", WAIT);
    expect(await other.locator("tr[data-station]").count()).toBe(50);
    const dots = await other.locator(".world circle").count();
    expect(dots).toBeGreaterThan(10);
    expect(dots).toBeLessThan(900);
    const cdp = await other.context().newCDPSession(other);
    await cdp.send("Performance.enable", { timeDomain: "threadTicks" });
    const busy = async (): Promise<number> => {
      const { metrics } = await cdp.send("Performance.getMetrics");
      return metrics.find(({ name }) => name === "TaskDuration")?.value ?? NaN;
    };
    const before = await busy();
    await other.click("button.sort:has-text('temperature')");
    await other.waitForSelector("th[aria-sort]:has-text('temperature')", WAIT);
    await other.click("button:text-is('Next')");
    await other.waitForSelector("text=2 of 200", WAIT);
    await other.fill("[type=search]", "u0999");
    await other.waitForSelector('span:text-is("Stations: 10")', WAIT);
    const took = (await busy()) - before;
    console.log(`10,000 stations: order, page and search in ${(took * 1000).toFixed(0)} ms`);
    expect(took).toBeLessThan(3);
    await other.context().close();
  });
});
