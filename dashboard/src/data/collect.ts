/** All records of a span, for a file. */

import { ask, RECORDS_MAX, recordsPath, type RecordsPage, type TelemetryRecord } from "./agent";
import { HubError, type Hub } from "./hub";
import { timeOf, type Span } from "./series";

/** More would fill a telephone's memory; `unisat-data` has no limit. */
export const COLLECTED_MAX = 200_000;
const PAUSE_MS = 500;

export interface Collected {
  /** In the order of their times. */
  records: TelemetryRecord[];
  /** Whether there are more than COLLECTED_MAX. */
  cut: boolean;
  /** Why the local Kinto did not give its own, or "". */
  failed: string;
}

/**
 * The records that the local Kinto has of a device, and those that still wait in the spool; the
 * spool's alone where Kinto does not answer, or `hub` is null.
 */
export async function collect(
  hub: Hub | null,
  waiting: boolean,
  device: string,
  span: Span,
  onCount: (n: number) => void,
): Promise<Collected> {
  const from = Math.max(0, Math.floor(span.from));
  const to = Math.ceil(span.to);
  const found = new Map<string, TelemetryRecord>();
  let failed = "";
  const take = async (pages: AsyncIterable<TelemetryRecord[]>): Promise<void> => {
    for await (const page of pages) {
      for (const record of page) found.set(record.id, record);
      onCount(found.size);
      if (found.size >= COLLECTED_MAX) return;
    }
  };
  if (hub !== null)
    try {
      await take(hub.records(device, from, to));
    } catch (error) {
      // A device whose first record is still on its way has no collection yet.
      const isNew = error instanceof HubError && error.status === 404;
      failed = isNew || !(error instanceof Error) ? "" : error.message;
      waiting = true;
    }
  if (hub === null || waiting) await take(spooled(device, from, to));
  const records = [...found.values()].sort((a, b) => timeOf(a) - timeOf(b) || a.seq - b.seq);
  return { records, cut: found.size >= COLLECTED_MAX, failed };
}

async function* spooled(
  device: string,
  from: number,
  to: number,
): AsyncGenerator<TelemetryRecord[]> {
  for (let after = 0; ;) {
    const page = await ask<RecordsPage>(
      recordsPath({ after, from, to, device, limit: RECORDS_MAX }),
    );
    yield page.records;
    after = page.records.at(-1)?.seq ?? 0;
    if (page.records.length < RECORDS_MAX) return;
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
}
