/** What the agent's status server says: agent/README.md, "Status". */

export interface Port {
  name: string;
  state: string;
  device: string | null;
  detail: string;
  bytes: number;
  reconnects: number;
}

export interface Sink {
  state: string;
  pending: number;
  oldest_s: number;
  acked: number;
  retries: number;
  dead: number;
  detail: string;
}

export interface Status {
  station: string;
  version: string;
  health: "ok" | "degraded" | "failed";
  problems: string[];
  clock: { synchronised: boolean; waiting_for_time: number; steps: number };
  spool: {
    path: string;
    bytes: number;
    last_seq: number;
    waiting_for_room: number;
    quarantined: number;
  };
  ports: Port[];
  sinks: Partial<Record<string, Sink>>;
  /** `full_in_days` is null where the disk will do. */
  retention: { full_in_days: number | null };
  /** How the station's update stands; null where nothing updates it by itself. */
  update: Update | null;
}

export interface Update {
  /** good, ready, switching, returning, forgetting. */
  phase: string;
  /** What the last good update brought; "" where there was none. */
  version: string;
  target: string;
  /** One sentence for people, or "". */
  said: string;
  problem: boolean;
}

/** One package as the agent stores it: design "The record". Other keys are measurements. */
export interface TelemetryRecord {
  id: string;
  devID: string;
  timestamp: number;
  received_at: string;
  clock: string;
  epoch: string;
  seq: number;
  groups?: Record<string, string[]>;
  missing?: string[];
  [field: string]: unknown;
}

export interface RecordsPage {
  epoch: string;
  first_seq: number;
  last_seq: number;
  /** The station's clock, seconds UTC. */
  now: number;
  timezone: string;
  disk: { free: number; total: number };
  records: TelemetryRecord[];
}

export interface Refused {
  lines: {
    number: number;
    received_at: string;
    port: string;
    reason: string;
    raw: string;
    bytes: number;
  }[];
  dead: { seq: number; devID: string; sink: string; reason: string; detail: string }[];
}

export const RECORDS_MAX = 5000;
const DEADLINE_MS = 8000;

/** Asks this page's own server; an answer that is not JSON or not 200 is an error. */
export async function ask<T>(path: string): Promise<T> {
  const answer = await fetch(path, {
    signal: AbortSignal.timeout(DEADLINE_MS),
    cache: "no-store",
    headers: { Accept: "application/json" },
  });
  if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
  return (await answer.json()) as T;
}

export function recordsPath(query: Record<string, number | string>): string {
  const pairs = Object.entries(query).map(([key, value]) => [key, String(value)]);
  return `/records?${new URLSearchParams(pairs).toString()}`;
}
