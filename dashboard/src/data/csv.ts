/** Records as CSV, one column a field: RFC 4180, UTF-8. */

import type { TelemetryRecord } from "./agent";
import type { Balance } from "./balance";

const FIRST = ["received_at", "timestamp", "devID", "seq", "clock", "epoch"];
const LEFT_OUT = new Set(["groups", "missing", "id", "boot_id", "uptime", "last_modified"]);

export function csv(records: readonly TelemetryRecord[]): string {
  const columns = [...FIRST];
  const known = new Set([...FIRST, ...LEFT_OUT]);
  for (const record of records)
    for (const name of Object.keys(record))
      if (!known.has(name)) {
        known.add(name);
        columns.push(name);
      }
  const rows = records.map((record) => columns.map((name) => cell(record[name])).join(","));
  return [columns.map(cell).join(","), ...rows, ""].join("\r\n");
}

function cell(value: unknown): string {
  if (value === undefined || value === null) return "";
  const text = typeof value === "string" ? value : JSON.stringify(value);
  // A spreadsheet takes a text that begins so for a formula.
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** The balance of the packages as lines that end a file; a program takes # for a comment. */
export function balanceLines(device: string, parts: readonly Balance[]): string {
  const lines = parts.map(
    ({ epoch, first, last, sent, stored, onWay, lost, open }) =>
      `# ${device} epoch ${epoch} numbers ${first}-${last}: sent ${sent}, stored ${stored}, ` +
      `on the way ${onWay}, lost ${lost}, on the way or lost ${open}`,
  );
  return lines.map((line) => `${line}\r\n`).join("");
}
