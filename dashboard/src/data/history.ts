/** What charts draw: a Kinto's series of some devices, and the records that came since it was asked. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Drawn } from "../components/Charts";
import type { Line } from "../components/Chart";
import type { TelemetryRecord } from "./agent";
import { HubError, type Hub, type SeriesAnswer } from "./hub";
import { gapAfter, timeOf, usualInterval, type Span } from "./series";

const POINTS = 600;
const AGAIN_S = 15;
const PENDING_MS = 2000;
/** How far "all" is looked for: roll-ups are for ever. */
const WHOLE_S = 3650 * 86_400;

export interface History {
  answers: Map<string, SeriesAnswer>;
  /** Why there was no answer, or "". */
  failed: string;
  /** When the oldest record came, seconds UTC; null while that is not known. */
  first: number | null;
}

const NOTHING: History = { answers: new Map(), failed: "", first: null };

/** An answer about a collection that is not there yet: all of the span is still to come. */
const none = ({ from, to }: Span): SeriesAnswer => ({
  asked: from,
  from,
  to,
  step: 1,
  pending_hours: 0,
  time: [],
  records: [],
  fields: {},
});

async function series(
  hub: Hub,
  id: string,
  fields: string,
  span: Span,
  points: number,
): Promise<SeriesAnswer> {
  const [from, to] = [Math.max(0, Math.floor(span.from)), Math.ceil(span.to)];
  try {
    return await hub.series(id, { fields, from, to, points });
  } catch (error) {
    if (error instanceof HubError && error.status === 404) return none({ from, to });
    throw error;
  }
}

/** The series of all that a device ever sent: narrowed until the buckets follow what is there. */
export async function wholeSeries(
  hub: Hub,
  id: string,
  fields: string,
  to: number,
): Promise<SeriesAnswer> {
  for (let from = to - WHOLE_S; ;) {
    const answer = await series(hub, id, fields, { from, to }, POINTS);
    const first = answer.time[0] ?? from;
    // Half of the span would make the buckets hardly finer.
    if (to - first > (to - from) / 2) return answer;
    from = first;
  }
}

/**
 * The series of some devices, asked again now and then while the span goes on to now; `whole` is from
 * the first record on, whatever the span begins with.
 */
export function useHistory(
  hub: Hub | null,
  devices: readonly string[],
  fields: readonly string[],
  span: Span,
  whole: boolean,
): History {
  const [history, set] = useState(NOTHING);
  const names = devices.join();
  const wanted = [...new Set([...fields, "lat", "long"])].slice(0, 20).join();
  const begun = whole ? (history.first ?? span.to - 1) : span.from;
  // A span that goes with the clock is another one every few seconds, not every moment.
  const step = Math.max((span.to - begun) / POINTS, AGAIN_S);
  const from = whole ? -1 : Math.floor(span.from / step) * step;
  const to = Math.ceil(span.to / step) * step;
  const firsts = useRef(new Map<string, number>());
  useEffect(() => {
    if (hub === null || names === "") return;
    let stopped = false;
    let again: ReturnType<typeof setTimeout> | undefined;
    const askOne = async (id: string): Promise<[string, SeriesAnswer]> => {
      const known = firsts.current.get(id);
      if (!whole) return [id, await series(hub, id, wanted, { from, to }, POINTS)];
      if (known !== undefined)
        return [id, await series(hub, id, wanted, { from: known, to }, POINTS)];
      const answer = await wholeSeries(hub, id, wanted, to);
      const [first] = answer.time;
      if (first !== undefined && answer.pending_hours === 0) firsts.current.set(id, first);
      return [id, answer];
    };
    const ask = async (): Promise<void> => {
      if (document.hidden) {
        again = setTimeout(() => void ask(), AGAIN_S * 1000);
        return;
      }
      try {
        const found = await Promise.all(names.split(",").map(askOne));
        if (stopped) return;
        const times = found.flatMap(([, { time }]) => time.slice(0, 1));
        const first = whole && times.length > 0 ? Math.min(...times) : null;
        set({ answers: new Map(found), failed: "", first });
        if (found.some(([, { pending_hours }]) => pending_hours > 0))
          again = setTimeout(() => void ask(), PENDING_MS);
      } catch (error) {
        if (stopped) return;
        set((was) => ({ ...was, failed: error instanceof Error ? error.message : "?" }));
        again = setTimeout(() => void ask(), AGAIN_S * 1000);
      }
    };
    void ask();
    return () => {
      stopped = true;
      clearTimeout(again);
    };
  }, [hub, names, wanted, whole, from, to]);
  return hub === null ? NOTHING : history;
}

interface Sample {
  mean: number | null;
  min: number | null;
  max: number | null;
}

interface Point {
  time: number;
  /** A distance to the next one above which the line is broken. */
  gap: number;
  read: (field: string) => Sample;
}

/** Where a bucket is drawn: in its middle, or in that of what has passed of it. */
const middle = (start: number, { step, asked }: SeriesAnswer): number =>
  (start + Math.max(start, Math.min(start + step, asked))) / 2;

function pointsOf(
  answer: SeriesAnswer | undefined,
  records: readonly TelemetryRecord[],
  since: number,
): Point[] {
  const found: Point[] = [];
  if (answer !== undefined) {
    const gap = Math.max(gapAfter(usualInterval(answer.time)), 1.5 * answer.step);
    answer.time.forEach((start, i) => {
      if (start >= since) return;
      const read = (field: string): Sample => {
        const columns = answer.fields[field];
        const at = (name: keyof Sample): number | null => columns?.[name][i] ?? null;
        return { mean: at("mean"), min: at("min"), max: at("max") };
      };
      found.push({ time: middle(start, answer), gap, read });
    });
  }
  const last = found.at(-1);
  // So long an answer may be old before it is asked for again.
  if (last !== undefined) last.gap += AGAIN_S;
  const newer = records
    .map((record) => ({ record, time: timeOf(record) }))
    .filter(({ time }) => time > (last?.time ?? -Infinity))
    .sort((a, b) => a.time - b.time);
  const gap = gapAfter(usualInterval(newer.map(({ time }) => time)));
  for (const { record, time } of newer) {
    const read = (field: string): Sample => {
      const value = record[field];
      const mean = typeof value === "number" ? value : null;
      return { mean, min: mean, max: mean };
    };
    found.push({ time, gap, read });
  }
  return found;
}

/**
 * The lines of each field: one x for all devices, a gap where one sent nothing.
 *
 * The series is drawn as far as `since`, then the records.
 */
export function draw(
  answers: ReadonlyMap<string, SeriesAnswer>,
  records: readonly TelemetryRecord[],
  fields: readonly string[],
  since = Infinity,
): Drawn {
  const all = new Set<number>();
  const own = new Map<string, Map<number, Point | null>>();
  for (const [device, answer] of answers) {
    const its = records.filter(({ devID }) => devID === device);
    const points = new Map<number, Point | null>();
    let before: Point | undefined;
    for (const point of pointsOf(answer, its, since)) {
      // One x between two that are far from each other breaks the line.
      if (before !== undefined && point.time - before.time > Math.max(before.gap, point.gap))
        points.set((before.time + point.time) / 2, null);
      points.set(point.time, point);
      before = point;
    }
    for (const time of points.keys()) all.add(time);
    own.set(device, points);
  }
  const times = [...all].sort((a, b) => a - b);
  const lines = new Map<string, Line[]>();
  for (const field of fields) {
    const drawn: Line[] = [];
    for (const [device, points] of own) {
      // Another device's x: undefined is joined, null is a gap.
      const samples = times.map((time) => {
        const point = points.get(time);
        return point == null ? point : point.read(field);
      });
      const column = (name: keyof Sample) =>
        samples.map((sample) => (sample == null ? sample : sample[name])) as (number | null)[];
      const line = { device, values: column("mean") };
      const banded = samples.some((sample) => sample != null && sample.min !== sample.max);
      drawn.push(banded ? { ...line, band: { low: column("min"), high: column("max") } } : line);
    }
    lines.set(field, drawn);
  }
  return { times, lines };
}

export function useDrawn(
  history: History,
  newest: readonly TelemetryRecord[],
  fields: readonly string[],
): Drawn {
  const names = fields.join();
  const marks = newest.map(({ devID, timestamp }) => `${devID}${timestamp}`).join();
  // Made anew by each look at the network; a new mark is a new record.
  const kept = useRef({ marks, newest });
  if (kept.current.marks !== marks) kept.current = { marks, newest };
  const known = kept.current.newest;
  return useMemo(
    () => draw(history.answers, known, names === "" ? [] : names.split(",")),
    [history.answers, known, names],
  );
}

/** The points of a series before a moment as records, for the table and the track. */
export function asRecords(
  device: string,
  answer: SeriesAnswer | undefined,
  before = Infinity,
): TelemetryRecord[] {
  const times = (answer?.time ?? []).filter((time) => time < before);
  return times.map((time, i) => {
    const values = Object.entries(answer?.fields ?? {}).flatMap(([field, columns]) => {
      const mean = columns?.mean[i];
      return mean == null ? [] : [[field, mean] as const];
    });
    return {
      id: `${device}${time}`,
      devID: device,
      timestamp: time,
      received_at: new Date(time * 1000).toISOString(),
      clock: "",
      epoch: "",
      seq: 0,
      ...Object.fromEntries(values),
    };
  });
}
