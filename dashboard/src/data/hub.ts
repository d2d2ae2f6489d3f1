/** What is asked of a hub, with the reader's account: kinto/README.md. */

import type { TelemetryRecord } from "./agent";

/** What the hub's operator set: role dashboard writes it beside the page. */
export interface Settings {
  bucket: string;
  location: "none" | "coarse" | "exact";
}

export interface Latest {
  id: string;
  records: number;
  last_modified: number;
  newest: TelemetryRecord | null;
}

export interface Epoch {
  epoch: string;
  records: number;
  first_seq: number | null;
  last_seq: number | null;
  missing: number | null;
}

export interface Account {
  records: number;
  /** Seconds UTC below which records were let go; 0 is nothing. */
  retain_from: number;
  epochs: Epoch[];
}

/** The one record `status` that a station's agent keeps in bucket `fleet`; older agents send none. */
export interface Report {
  /** When it came, by the hub's clock in seconds: the station's own may be wrong. */
  timestamp: number;
  /** The station's spool: the same as in its records. */
  epoch?: string;
  /** The highest number that the station had given. */
  last_seq?: number;
  health?: "ok" | "degraded" | "failed";
  problems?: string[];
  /** What waits there, by Kinto: `local` and `hub`. */
  pending?: Partial<Record<string, number>>;
  clock?: string;
  power?: string;
  /** `said` is for people; null where nothing updates the station by itself. */
  update?: { phase?: string; said?: string } | null;
  full_in_days?: number | null;
}

export interface SeriesAnswer {
  /** When it was answered, by the server's clock in seconds: the newest bucket may go on beyond. */
  asked: number;
  from: number;
  to: number;
  step: number;
  pending_hours: number;
  time: number[];
  records: number[];
  fields: Partial<Record<string, Record<"min" | "mean" | "max", (number | null)[]>>>;
}

export class HubError extends Error {
  constructor(readonly status: number) {
    super(`HTTP ${status}`);
  }
}

const DEADLINE_MS = 60_000;
const PAGE = 1000;

export function basic(name: string, password: string): string {
  const bytes = new TextEncoder().encode(`${name}:${password}`);
  return `Basic ${btoa(String.fromCharCode(...bytes))}`;
}

export class Hub {
  private readonly kept = new Map<string, { etag: string; body: unknown }>();

  constructor(
    private readonly settings: Settings,
    /** The header; "" for what everybody may read. */
    readonly authorization: string,
  ) {}

  request(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    if (this.authorization !== "") headers.set("Authorization", this.authorization);
    // Without the browser's own credentials, so that it never asks for a password by itself.
    return fetch(path, { ...init, headers, credentials: "omit", cache: "no-store" });
  }

  bucket(name = this.settings.bucket): string {
    return `/v1/buckets/${name}`;
  }

  collection(id: string): string {
    return `${this.bucket()}/collections/${encodeURIComponent(id)}`;
  }

  /** All stations, page by page; the answer's time is the hub's clock in seconds. */
  async latest(bucket?: string): Promise<{ now: number; rows: Latest[] }> {
    const rows: Latest[] = [];
    let now = Date.now() / 1000;
    let path = `${this.bucket(bucket)}/latest`;
    while (path !== "") {
      const answer = await this.get(path);
      for (const row of answer.data as Latest[])
        rows.push({ ...row, newest: row.newest && this.blur(row.newest) });
      now = answer.now;
      path = answer.next;
    }
    return { now, rows };
  }

  async account(id: string): Promise<Account> {
    return (await this.get(`${this.collection(id)}/account`)).data as Account;
  }

  async series(id: string, query: Record<string, string | number>): Promise<SeriesAnswer> {
    const pairs = Object.entries(query).map(([key, value]) => [key, String(value)]);
    const search = new URLSearchParams(pairs).toString();
    const answer = await this.get(`${this.collection(id)}/series?${search}`);
    const data = { ...(answer.data as SeriesAnswer), asked: answer.now };
    for (const field of ["lat", "long"])
      for (const column of Object.values(data.fields[field] ?? {}))
        column.forEach((value, i) => (column[i] = value === null ? null : this.rounded(value)));
    return data;
  }

  /** The records of a span in the order of time, page by page. */
  async *records(id: string, from: number, to: number): AsyncGenerator<TelemetryRecord[]> {
    let path = `${this.collection(id)}/records?min_timestamp=${from}&max_timestamp=${to}&_sort=timestamp&_limit=${PAGE}`;
    while (path !== "") {
      const { data, next } = await this.get(path);
      yield (data as TelemetryRecord[]).map((record) => this.blur(record));
      path = next;
    }
  }

  private async get(path: string): Promise<{ data: unknown; next: string; now: number }> {
    const kept = this.kept.get(path);
    const answer = await this.request(path, {
      signal: AbortSignal.timeout(DEADLINE_MS),
      headers: kept === undefined ? {} : { "If-None-Match": kept.etag },
    });
    if (!answer.ok && answer.status !== 304) throw new HubError(answer.status);
    const date = Date.parse(answer.headers.get("Date") ?? "");
    const now = Number.isNaN(date) ? Date.now() / 1000 : date / 1000;
    if (answer.status === 304 && kept !== undefined)
      return { data: structuredClone(kept.body), next: "", now };
    const { data } = (await answer.json()) as { data: unknown };
    const etag = answer.headers.get("ETag");
    // The hub's own idea of its address may be another: only the path counts.
    const next = answer.headers.get("Next-Page") ?? "";
    if (etag !== null && next === "" && path.endsWith("/account"))
      this.kept.set(path, { etag, body: structuredClone(data) });
    return { data, next: next === "" ? "" : next.slice(next.indexOf("/v1/")), now };
  }

  /** A record with the place only as precise as the operator allows. */
  blur(record: TelemetryRecord): TelemetryRecord {
    if (this.settings.location === "exact") return record;
    const { lat, long, ...rest } = record;
    if (this.settings.location === "none") return rest;
    if (typeof lat !== "number" || typeof long !== "number") return rest;
    return { ...rest, lat: this.rounded(lat), long: this.rounded(long) };
  }

  /** About ten kilometres: a town, not a school. */
  private rounded(degrees: number): number | null {
    if (this.settings.location === "none") return null;
    return this.settings.location === "exact" ? degrees : Math.round(degrees * 10) / 10;
  }
}
