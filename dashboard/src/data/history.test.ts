import { describe, expect, it } from "vitest";
import type { TelemetryRecord } from "./agent";
import { draw, wholeSeries } from "./history";
import { HubError, type Hub, type SeriesAnswer } from "./hub";

const answer = (time: number[], mean: number[], change: object = {}): SeriesAnswer => ({
  asked: 100,
  from: 0,
  to: 100,
  step: 2,
  pending_hours: 0,
  time,
  records: time.map(() => 1),
  fields: { t: { mean, min: mean.map((value) => value - 1), max: mean } },
  ...change,
});

const record = (seconds: number, t: number, devID = "a"): TelemetryRecord => ({
  id: `id${seconds}`,
  devID,
  timestamp: seconds,
  received_at: new Date(seconds * 1000).toISOString(),
  clock: "synced",
  epoch: "e",
  seq: seconds,
  t,
});

describe("what is drawn of a series", () => {
  it("has one x for all devices, gaps as gaps, and the newest record at its end", () => {
    const answers = new Map([
      ["a", answer([0, 2, 4, 40], [1, 2, 3, 4])],
      ["b", answer([2, 40], [5, 6])],
    ]);
    const { times, lines } = draw(answers, [record(44, 9)], ["t"]);
    const [a, b] = lines.get("t") ?? [];
    expect(times).toEqual([1, 3, 5, 23, 41, 44]);
    expect(a?.values).toEqual([1, 2, 3, null, 4, 9]);
    expect(a?.band?.low).toEqual([0, 1, 2, null, 3, 9]);
    expect(b?.values[1]).toBe(5);
    expect(b?.values[4]).toBe(6);
  });
  it("goes on with the records where a bucket is not over, and where some wait for Kinto", () => {
    const own = [record(70, 7), record(90, 8), record(99, 9), record(101, 10)];
    const series = answer([0, 60], [1, 2], { step: 60, asked: 80 });
    // The second bucket stands for 20 of its 60 seconds.
    expect(draw(new Map([["a", series]]), own, ["t"]).times).toEqual([30, 70, 90, 99, 101]);
    expect(draw(new Map([["a", series]]), own, ["t"], 60).times).toEqual([30, 70, 90, 99, 101]);
    expect(draw(new Map([["a", series]]), own, ["t"], 60).lines.get("t")?.[0]?.values[1]).toBe(7);
    expect(draw(new Map([["a", series]]), own, ["t"]).lines.get("t")?.[0]?.values[1]).toBe(2);
  });
});

describe("all that a device sent", () => {
  const NOW = 2_000_000_000;
  const hubOf = (first: number | null) => {
    const asked: number[] = [];
    const series = (_: string, query: Record<string, string | number>): Promise<SeriesAnswer> => {
      const [from, to] = [Number(query["from"]), Number(query["to"])];
      asked.push(to - from);
      if (first === null) return Promise.reject(new HubError(404));
      const step = Math.ceil((to - from) / Number(query["points"]));
      const found = Math.floor(Math.max(first, from) / step) * step;
      return Promise.resolve(answer([found], [1], { from, to, step, asked: to }));
    };
    return { hub: { series } as unknown as Hub, asked };
  };
  it.each([90, 7200, 30 * 86_400])("is in buckets that follow %d seconds of data", async (age) => {
    const { hub, asked } = hubOf(NOW - age);
    const { step } = await wholeSeries(hub, "a", "t", NOW);
    expect(step).toBeLessThanOrEqual(Math.max(2, age / 100));
    expect(asked.length).toBeLessThan(6);
  });
  it("is nothing where there is no collection yet", async () => {
    const { hub } = hubOf(null);
    expect((await wholeSeries(hub, "a", "t", NOW)).time).toEqual([]);
  });
});
