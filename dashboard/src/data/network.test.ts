import { describe, expect, it } from "vitest";
import type { TelemetryRecord } from "./agent";
import { balances, total } from "./balance";
import { balanceLines } from "./csv";
import { basic, Hub, type Account } from "./hub";
import { around, clusters, WORLD } from "./places";
import { whySilent } from "./silent";
import { choose, makeStations } from "./stations";
import { EventParser } from "./stream";

const account = (epoch: string, first: number, last: number, records: number): Account => ({
  records,
  retain_from: 0,
  epochs: [
    { epoch, records, first_seq: first, last_seq: last, missing: last - first + 1 - records },
  ],
});

describe("the balance of the packages", () => {
  const one = account("e", 1, 99, 50);
  const two = account("e", 2, 100, 48);
  it("goes over all devices of a station, which numbers them together", () => {
    const [part] = balances(one, [one, two, account("other", 1, 9, 9)], () => undefined);
    expect(part).toMatchObject({ first: 1, last: 100, sent: 100, stored: 98, open: 2, lost: 0 });
  });
  it("tells what is on the way from what is lost, where the station says what waits", () => {
    const parts = balances(one, [one, two], () => ({
      timestamp: 0,
      last_seq: 100,
      pending: { hub: 1 },
    }));
    expect(total(parts)).toEqual({ sent: 100, stored: 98, onWay: 1, lost: 1, open: 0 });
    expect(balanceLines("u1", parts)).toBe(
      "# u1 epoch e numbers 1-100: sent 100, stored 98, on the way 1, lost 1, on the way or lost 0\r\n",
    );
  });
  it("takes for lost only what the station had numbered when it said what waits", () => {
    const said = (last_seq: number) => ({ timestamp: 0, last_seq, pending: { hub: 0 } });
    const ofReport = (last_seq: number) => total(balances(one, [one, two], () => said(last_seq)));
    expect(ofReport(100)).toMatchObject({ lost: 2, open: 0 });
    expect(ofReport(99)).toMatchObject({ lost: 1, open: 1 });
    expect(ofReport(10)).toMatchObject({ lost: 0, open: 2 });
  });
});

describe("why a station is silent", () => {
  const at = 1_000_000;
  it.each([
    [undefined, "whyNoReport"],
    [{ timestamp: at - 9000 }, "whyGone"],
    [{ timestamp: at - 9000, power: "low" }, "whyPower"],
    [{ timestamp: at, update: { phase: "switching" } }, "whyUpdate"],
    [{ timestamp: at, update: { phase: "good" } }, "whyDevice"],
    [{ timestamp: at, problems: ["no package for 60 s"] }, "whySays"],
    [{ timestamp: at, clock: "unsynced" }, "whyClock"],
    [{ timestamp: at, pending: { local: 0, hub: 4 } }, "whyNetwork"],
    [{ timestamp: at, pending: { hub: 0 }, clock: "synced" }, "whyDevice"],
  ])("%j: %s", (report, key) => {
    expect(whySilent(report, at).key).toBe(key);
  });
});

describe("the live stream", () => {
  it("is cut into events, however it comes", () => {
    const text =
      ': keep-alive\n\nid: 7\nevent: record\ndata: {"a":1}\n\nid: 8\nevent: ready\ndata: {}\n\n';
    const parser = new EventParser();
    expect(Array.from(text).flatMap((letter) => parser.push(letter))).toEqual([
      { id: "7", event: "record", data: '{"a":1}' },
      { id: "8", event: "ready", data: "{}" },
    ]);
  });
});

describe("places", () => {
  const place = (id: string, lat: number, long: number) => ({ id, lat, long, silent: false });
  it("that are near are one", () => {
    const found = clusters(
      [place("a", 43.2, 76.9), place("b", 43.3, 76.9), place("c", 0, 0)],
      WORLD,
    );
    expect(found.map(({ ids }) => ids.length).sort()).toEqual([1, 2]);
  });
  it("fit on the map", () => {
    expect(around([])).toEqual(WORLD);
    const box = around([place("a", 89, 179), place("b", 80, 170)]);
    expect(box.x + box.width).toBeLessThanOrEqual(360);
    expect(box.y).toBeGreaterThanOrEqual(0);
  });
  it("are only as precise as the operator allows", () => {
    const record = {
      devID: "a",
      lat: 43.27534,
      long: 76.94567,
      t: 1,
    } as unknown as TelemetryRecord;
    const seen = (location: "none" | "coarse" | "exact") =>
      new Hub({ bucket: "b", location }, "").blur(record);
    expect(seen("exact")).toEqual(record);
    expect(seen("coarse")).toEqual({ devID: "a", lat: 43.3, long: 76.9, t: 1 });
    expect(seen("none")).toEqual({ devID: "a", t: 1 });
  });
});

describe("stations", () => {
  const row = (id: string, age: number, records: number) => ({
    id,
    records,
    last_modified: 1,
    rate: null,
    account: undefined,
    newest: {
      timestamp: 1000 - age,
      epoch: id,
      temperature: records,
    } as unknown as TelemetryRecord,
  });
  const network = {
    rows: [row("u2", 5, 9), row("u10", 500, 1), { ...row("u1", 1, 3), newest: null }],
    reports: [],
    answered: 1,
    unreachable: false,
    refused: 0,
    live: true,
    clockAhead: 0,
  };
  const all = makeStations(network, 1000);
  it("are live, silent, or have never sent", () => {
    expect(all.map(({ state }) => state)).toEqual(["live", "silent", "never"]);
  });
  it("are searched for and put in order", () => {
    const ids = (search: string, sort: string) => choose(all, search, sort).map(({ id }) => id);
    expect(ids("U1", "")).toEqual(["u1", "u10"]);
    expect(ids("", "-records")).toEqual(["u2", "u1", "u10"]);
    expect(ids("", "temperature")).toEqual(["u1", "u10", "u2"]);
    expect(ids("", "constructor")).toHaveLength(3);
  });
});

describe("a login", () => {
  it("may hold any letters", () => {
    expect(basic("мектеп", "қ:1")).toMatch(/^Basic [A-Za-z0-9+/]+=*$/);
  });
});
