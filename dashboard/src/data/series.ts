/** Columns for the charts: one x, one y per field, and a null where nothing came. */

import type { TelemetryRecord } from "./agent";

export type Column = (number | null)[];

export interface Series {
  /** Seconds UTC, ascending. */
  times: number[];
  columns: Map<string, Column>;
}

export const timeOf = (record: TelemetryRecord): number => Date.parse(record.received_at) / 1000;

/** The usual distance of two records in seconds; 3 where it can't be told. */
export function usualInterval(times: readonly number[]): number {
  const steps = times
    .slice(-200)
    .map((time, i, all) => time - (all[i - 1] ?? NaN))
    .filter((step) => step > 0)
    .sort((a, b) => a - b);
  return steps[Math.floor(steps.length / 2)] ?? 3;
}

/** A distance above which the line is broken: nothing came, and nothing is drawn. */
export const gapAfter = (interval: number): number => Math.max(4 * interval, 6);

export function makeSeries(records: readonly TelemetryRecord[], fields: string[]): Series {
  const sorted = records
    .map((record) => ({ record, time: timeOf(record) }))
    .filter(({ time }) => Number.isFinite(time))
    .sort((a, b) => a.time - b.time);
  const gap = gapAfter(usualInterval(sorted.map(({ time }) => time)));
  const times: number[] = [];
  const columns = new Map<string, Column>(fields.map((field) => [field, []]));
  let before = NaN;
  for (const { record, time } of sorted) {
    if (time - before > gap) {
      times.push((before + time) / 2);
      for (const column of columns.values()) column.push(null);
    }
    times.push(time);
    for (const [field, column] of columns) {
      const value = record[field];
      column.push(typeof value === "number" ? value : null);
    }
    before = time;
  }
  return { times, columns };
}

export interface Span {
  from: number;
  to: number;
}

/** The numbers that are missing between the first and the last: packages that never came here. */
export function missingNumbers(records: readonly TelemetryRecord[]): number {
  let low = Infinity;
  let high = -Infinity;
  const numbers = new Set<number>();
  for (const { seq } of records) {
    numbers.add(seq);
    low = Math.min(low, seq);
    high = Math.max(high, seq);
  }
  return numbers.size === 0 ? 0 : high - low + 1 - numbers.size;
}
