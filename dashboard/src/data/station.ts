/** Keeps what the page knows of the station's agent, asking it less than once a second.
 *
 * New records every 1.4 s and the status every 5.6 s leave room for the local Kinto's series
 * (history.ts) within one request a second. While older records are loaded, they take turns with
 * the new ones.
 */

import { useEffect, useState } from "preact/hooks";
import {
  ask,
  RECORDS_MAX,
  recordsPath,
  type RecordsPage,
  type Refused,
  type Status,
  type TelemetryRecord,
} from "./agent";
import { timeOf } from "./series";

/** More would fill a telephone's memory. */
const RECORDS_KEPT = 60_000;
const FIRST_RECORDS = 300;
const LIVE_MS = 1400;
const TURN_MS = 1000;
const LIVE_PER_STATUS = 4;
const REFUSED_EVERY_S = 15;

export interface Station {
  status: Status | null;
  refused: Refused | null;
  /** By seq, ascending. */
  records: TelemetryRecord[];
  firstSeq: number;
  timezone: string;
  disk: { free: number; total: number } | null;
  /** Seconds that the station's clock is ahead of this device's. */
  clockAhead: number;
  /** When the station answered last, by this device's clock in seconds; 0 is never. */
  answered: number;
  unreachable: boolean;
  /** 0 to 1 while older records are loaded, else null. */
  progress: number | null;
}

export const EMPTY: Station = {
  status: null,
  refused: null,
  records: [],
  firstSeq: 0,
  timezone: "UTC",
  disk: null,
  clockAhead: 0,
  answered: 0,
  unreachable: false,
  progress: null,
};

export class StationFeed {
  private state = EMPTY;
  private epoch = "";
  private rangeS = 900;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private turn = 0;
  private stopped = false;
  private asking = false;
  private refusedShown = -1;
  private refusedAt = 0;

  constructor(private readonly changed: (state: Station) => void) {}

  start(): void {
    document.addEventListener("visibilitychange", this.look);
    void this.step();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
    document.removeEventListener("visibilitychange", this.look);
  }

  /** How far back the records are wanted. */
  want(rangeS: number): void {
    this.rangeS = rangeS;
  }

  private readonly look = (): void => {
    clearTimeout(this.timer);
    if (!document.hidden && !this.asking) void this.step();
  };

  private async step(): Promise<void> {
    const older = this.wantsOlder();
    const round = LIVE_PER_STATUS + 1;
    const turn = this.turn++ % round;
    let waitMs = older ? TURN_MS : LIVE_MS;
    this.asking = true;
    try {
      // Both at once to begin with: each question takes its time on the way to a telephone.
      if (this.state.status === null) await Promise.all([this.askStatus(), this.askNew()]);
      else if (turn === LIVE_PER_STATUS)
        await (this.wantsRefused() ? this.askRefused() : this.askStatus());
      else if (older && turn % 2 === 1) await this.askOlder();
      else await this.askNew();
      // The status comes in the middle of the wait between two looks for records.
      if (!older && turn >= LIVE_PER_STATUS - 1) waitMs = LIVE_MS / 2;
      if (this.epoch === "") waitMs = 0;
    } catch {
      this.turn = 0;
      this.set({ unreachable: true, progress: null });
    }
    this.asking = false;
    if (!this.stopped && !document.hidden) this.timer = setTimeout(() => void this.step(), waitMs);
  }

  private async askStatus(): Promise<void> {
    const status = await ask<Status>("/status");
    this.set({ status, answered: Date.now() / 1000, unreachable: false });
  }

  /** How many bad lines and dead letters there are. */
  private refused(): number {
    const { status } = this.state;
    const sinks = Object.values(status?.sinks ?? {});
    const dead = sinks.reduce((sum, sink) => sum + (sink?.dead ?? 0), 0);
    return (status?.spool.quarantined ?? 0) + dead;
  }

  /** In place of a status: on a noisy line there are new ones all the time. */
  private wantsRefused(): boolean {
    const due = Date.now() / 1000 - this.refusedAt > REFUSED_EVERY_S;
    return due && this.refused() !== this.refusedShown;
  }

  private async askRefused(): Promise<void> {
    const shown = this.refused();
    this.refusedAt = Date.now() / 1000;
    this.set({ refused: await ask<Refused>("/refused") });
    this.refusedShown = shown;
  }

  private async askNew(): Promise<void> {
    const last = this.state.records.at(-1)?.seq;
    const query =
      last === undefined ? { limit: FIRST_RECORDS } : { after: last, limit: RECORDS_MAX };
    const page = await ask<RecordsPage>(recordsPath(query));
    const anew = this.epoch !== "" && page.epoch !== this.epoch;
    this.epoch = page.epoch;
    // A new spool counts from 1: what was kept is another's.
    const kept = anew ? [] : this.state.records;
    this.take(page, anew ? [] : page.records.length > 0 ? [...kept, ...page.records] : kept);
  }

  private async askOlder(): Promise<void> {
    const first = this.state.records[0]?.seq ?? 0;
    const page = await ask<RecordsPage>(recordsPath({ before: first, limit: RECORDS_MAX }));
    if (page.epoch === this.epoch) this.take(page, [...page.records, ...this.state.records]);
  }

  private take(page: RecordsPage, records: TelemetryRecord[]): void {
    const now = Date.now() / 1000;
    this.set({
      records: records.length > RECORDS_KEPT ? records.slice(-RECORDS_KEPT) : records,
      firstSeq: page.first_seq,
      timezone: page.timezone,
      disk: page.disk,
      clockAhead: page.now - now,
      answered: now,
      unreachable: false,
    });
    this.set({ progress: this.progress() });
  }

  private wantsOlder(): boolean {
    const { records, firstSeq, clockAhead } = this.state;
    const first = records[0];
    return (
      first !== undefined &&
      records.length < RECORDS_KEPT &&
      first.seq > firstSeq &&
      timeOf(first) > Date.now() / 1000 + clockAhead - this.rangeS
    );
  }

  private progress(): number | null {
    const { records, firstSeq, clockAhead } = this.state;
    const first = records[0];
    const last = records.at(-1);
    if (first === undefined || last === undefined || !this.wantsOlder()) return null;
    const bySeq = (last.seq - first.seq) / Math.max(1, last.seq - firstSeq);
    const now = Date.now() / 1000 + clockAhead;
    return Math.min(1, Math.max(bySeq, (now - timeOf(first)) / this.rangeS));
  }

  private set(change: Partial<Station>): void {
    this.state = { ...this.state, ...change };
    if (!this.stopped) this.changed(this.state);
  }
}

export function useStation(): [Station, StationFeed] {
  const [state, set] = useState(EMPTY);
  const [feed] = useState(() => new StationFeed(set));
  useEffect(() => {
    feed.start();
    return () => {
      feed.stop();
    };
  }, [feed]);
  return [state, feed];
}
