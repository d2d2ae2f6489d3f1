/** What a record's measurements are: which there are, how they are written, in which unit. */

import type { TelemetryRecord } from "./agent";

const META = new Set([
  "id",
  "devID",
  "timestamp",
  "received_at",
  "clock",
  "epoch",
  "seq",
  "boot_id",
  "uptime",
  "groups",
  "missing",
  "last_modified",
  "schema",
]);

const UNITS: Partial<Record<string, string>> = {
  temperature: "°C",
  humidity: "%",
  pressure: "hPa",
  pm25: "µg/m³",
  pm10: "µg/m³",
  lat: "°",
  long: "°",
  alt: "m",
};

export const unit = (field: string): string => UNITS[field] ?? "";

export type Value = number | boolean;

export function valueOf(record: TelemetryRecord, field: string): Value | undefined {
  const value = record[field];
  return typeof value === "number" || typeof value === "boolean" ? value : undefined;
}

/** Numbers with at most five significant digits behind the point; the rest as it is. */
export function written(value: Value | undefined, language: string): string {
  if (value === undefined) return "–";
  if (typeof value === "boolean") return value ? "✓" : "✗";
  const digits = Math.abs(value) >= 1000 ? 1 : Math.abs(value) >= 1 ? 3 : 5;
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
}

export function measurements(record: TelemetryRecord): string[] {
  return Object.keys(record).filter(
    (name) => !META.has(name) && valueOf(record, name) !== undefined,
  );
}

/** The fields of a record by subID, in the order sent; those without a group come last. */
export function byGroup(record: TelemetryRecord): [group: string, fields: string[]][] {
  const left = new Set(measurements(record));
  const found: [string, string[]][] = [];
  for (const [group, names] of Object.entries(record.groups ?? {})) {
    const fields = names.filter((name) => left.delete(name));
    if (fields.length > 0) found.push([group, fields]);
  }
  if (left.size > 0) found.push(["", [...left]]);
  return found;
}

/** The numeric fields of some records, the required ones first. */
export function numericFields(records: readonly TelemetryRecord[]): string[] {
  const order = ["temperature", "humidity", "pressure", "pm25", "pm10"];
  const found = new Set<string>();
  for (const record of records)
    for (const name of measurements(record))
      if (typeof record[name] === "number" && name !== "lat" && name !== "long") found.add(name);
  return [
    ...order.filter((name) => found.has(name)),
    ...[...found].filter((name) => !order.includes(name)),
  ];
}
