import { describe, expect, it } from "vitest";
import type { Status, TelemetryRecord } from "./agent";
import { makeChain, standsAt } from "./chain";
import { csv } from "./csv";
import { byGroup, numericFields, written } from "./fields";
import { makeSeries, missingNumbers, usualInterval } from "./series";
import { makeTrack, roundLength } from "./track";

const record = (seconds: number, fields: Record<string, unknown> = {}): TelemetryRecord => ({
  id: `id${seconds}`,
  devID: "u01",
  timestamp: seconds,
  received_at: new Date(seconds * 1000).toISOString(),
  clock: "synced",
  epoch: "e",
  seq: seconds,
  ...fields,
});

const STATUS: Status = {
  station: "almaty",
  version: "1",
  health: "ok",
  problems: [],
  clock: { synchronised: true, waiting_for_time: 0, steps: 0 },
  spool: { path: "", bytes: 0, last_seq: 1, waiting_for_room: 0, quarantined: 0 },
  retention: { full_in_days: null },
  update: null,
  ports: [{ name: "p", state: "reading", device: "d", detail: "", bytes: 1, reconnects: 0 }],
  sinks: {
    local: {
      state: "delivering",
      pending: 0,
      oldest_s: 0,
      acked: 1,
      retries: 0,
      dead: 0,
      detail: "",
    },
    hub: {
      state: "delivering",
      pending: 0,
      oldest_s: 0,
      acked: 1,
      retries: 0,
      dead: 0,
      detail: "",
    },
  },
};

describe("series", () => {
  it("breaks the line where nothing came, and keeps the order", () => {
    const times = [30, 3, 6, 0, 9, 33];
    const made = makeSeries(
      times.map((time) => record(time, { temperature: time })),
      ["temperature"],
    );
    expect(made.times).toEqual([0, 3, 6, 9, 19.5, 30, 33]);
    expect(made.columns.get("temperature")).toEqual([0, 3, 6, 9, null, 30, 33]);
  });
  it("has a gap where a field is missing or is no number", () => {
    const made = makeSeries(
      [record(0, { pm25: 1 }), record(3), record(6, { pm25: true })],
      ["pm25"],
    );
    expect(made.columns.get("pm25")).toEqual([1, null, null]);
  });
  it("knows the usual interval and what is missing", () => {
    expect(usualInterval([0, 3, 6, 60, 63])).toBe(3);
    expect(usualInterval([])).toBe(3);
    expect(missingNumbers([record(4), record(7), record(5)])).toBe(1);
    expect(missingNumbers([])).toBe(0);
  });
});

describe("fields", () => {
  it("groups as the device did; the rest comes last", () => {
    const made = record(0, {
      temperature: 1,
      lat: 2,
      odd: 3,
      groups: { gps: ["lat", "gone"], meteo: ["temperature"] },
    });
    expect(byGroup(made)).toEqual([
      ["gps", ["lat"]],
      ["meteo", ["temperature"]],
      ["", ["odd"]],
    ]);
    expect(numericFields([made])).toEqual(["temperature", "odd"]);
  });
  it("writes values in a language", () => {
    expect(written(1304.42, "en")).toBe("1,304.4");
    expect(written(0.5, "ru")).toBe("0,5");
    expect(written(true, "en")).toBe("✓");
    expect(written(undefined, "en")).toBe("–");
  });
});

describe("chain", () => {
  const at = (status: Status | null, age: number | null) =>
    standsAt(makeChain({ status, age, interval: 3 }));
  it("flows", () => {
    expect(at(STATUS, 2)).toBeUndefined();
  });
  it("names a silent device", () => {
    expect(at(STATUS, 60)?.stage).toBe("device");
    expect(at(STATUS, null)?.stage).toBe("device");
  });
  it("names a port that is gone, not the device behind it", () => {
    const port = { ...STATUS.ports[0], state: "waiting", detail: "there is no port" };
    const found = at({ ...STATUS, ports: [port] as Status["ports"] }, 60);
    expect(found).toMatchObject({ stage: "port", state: "stopped", detail: "there is no port" });
  });
  const withHub = (change: object) =>
    ({
      ...STATUS,
      sinks: { ...STATUS.sinks, hub: { ...STATUS.sinks["hub"], ...change } },
    }) as Status;
  it("tells a hub that is away from one that is behind", () => {
    expect(at(withHub({ state: "backing_off", pending: 3 }), 2)).toMatchObject({
      stage: "hub",
      state: "stopped",
      pending: 3,
    });
    expect(at(withHub({ pending: 500 }), 2)).toMatchObject({ stage: "hub", state: "late" });
    const none = makeChain({ status: { ...STATUS, sinks: {} }, age: 1, interval: 3 });
    expect(none.map((link) => link.state)).toEqual(["ok", "ok", "ok", "none", "none"]);
  });
  it("tells packages that are held for the time from a hub that is behind", () => {
    const clock = { synchronised: false, waiting_for_time: 40, steps: 0 };
    const hub = (change: object, clocked: object = clock) =>
      at({ ...withHub(change), clock: clocked } as Status, 2);
    expect(hub({ pending: 40 })).toMatchObject({ stage: "hub", state: "held", pending: 40 });
    expect(hub({ pending: 60 })).toMatchObject({ stage: "hub", state: "late" });
    expect(hub({ pending: 40, state: "backing_off" })).toMatchObject({ state: "stopped" });
    expect(hub({ pending: 40 }, { ...clock, synchronised: true })).toMatchObject({ state: "late" });
  });
  it("knows nothing without a status", () => {
    expect(
      new Set(makeChain({ status: null, age: 1, interval: 3 }).map((link) => link.state)),
    ).toEqual(new Set(["unknown"]));
  });
});

describe("csv", () => {
  it("has one column a field and no formulas", () => {
    const text = csv([
      record(0, { temperature: 1.5, groups: {} }),
      record(3, { devID: "=1+1", note: 'a"b' }),
    ]);
    const [head, first, second] = text.split("\r\n");
    expect(head).toBe("received_at,timestamp,devID,seq,clock,epoch,temperature,note");
    expect(first).toBe("1970-01-01T00:00:00.000Z,0,u01,0,synced,e,1.5,");
    expect(second).toContain(`'=1+1,3,synced,e,,"a""b"`);
  });
  it("keeps the sign of a negative number", () => {
    expect(csv([record(0, { temperature: -3 })])).toContain(",-3\r\n");
  });
});

describe("track", () => {
  it("is in metres, and without what a receiver without a fix says", () => {
    const made = makeTrack([
      record(0, { lat: 0, long: 0 }),
      record(3, { lat: 43.2, long: 76.5 }),
      record(6, { lat: 43.201, long: 76.5 }),
      record(9, { lat: 99, long: 76.5 }),
    ]);
    expect(made?.points.map(({ y }) => Math.round(y))).toEqual([-56, 56]);
    expect(made?.bar).toBe(20);
    expect(makeTrack([record(0)])).toBeNull();
  });
  it("rounds the scale down", () => {
    expect([7, 49, 0.3, 1000].map(roundLength)).toEqual([5, 20, 0.2, 1000]);
  });
});
