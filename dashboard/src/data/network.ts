/** Keeps what the page knows of all stations: one question for all of them now and then, and the live
 * stream of those that are looked at. */

import { useEffect, useState } from "preact/hooks";
import type { TelemetryRecord } from "./agent";
import { Hub, HubError, type Account, type Latest, type Report, type Settings } from "./hub";
import { Stream } from "./stream";

export interface Row extends Latest {
  /** Records a minute, null while that can't be told. */
  rate: number | null;
  account: Account | undefined;
}

export interface Network {
  rows: Row[];
  reports: Report[];
  /** When the hub answered last, by this device's clock in seconds; 0 is never. */
  answered: number;
  unreachable: boolean;
  /** HTTP status of a refusal, else 0. */
  refused: number;
  live: boolean;
  /** Seconds that the hub's clock is ahead of this device's. */
  clockAhead: number;
}

const NOTHING: Network = {
  rows: [],
  reports: [],
  answered: 0,
  unreachable: false,
  refused: 0,
  live: false,
  clockAhead: 0,
};

const POLL_MS = 10_000;
/** A question that takes long is asked less often. */
const POLL_PER_COST = 20;
const SHOW_MS = 250;
const ACCOUNT_S = 60;
const RATE_FROM_S = 15;
const RATE_OVER_S = 600;
/** The stream's own limit is above it. */
export const WATCHED_MAX = 100;

interface Sample {
  at: number;
  records: number;
}

export class NetworkFeed {
  private state = NOTHING;
  private readonly rows = new Map<string, Row>();
  private readonly samples = new Map<string, Sample[]>();
  private readonly accounts = new Map<string, { at: number; account: Account }>();
  private watched: string[] = [];
  private stream: Stream | null = null;
  private poll: ReturnType<typeof setTimeout> | undefined;
  private show: ReturnType<typeof setTimeout> | undefined;
  private stopped = false;
  private accounting = false;

  constructor(
    readonly hub: Hub,
    private readonly changed: (state: Network) => void,
  ) {}

  start(): void {
    document.addEventListener("visibilitychange", this.look);
    void this.ask();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.poll);
    clearTimeout(this.show);
    this.stream?.stop();
    document.removeEventListener("visibilitychange", this.look);
  }

  /** Of which devices new records and accounts are wanted. */
  watch(ids: readonly string[]): void {
    const wanted = [...new Set(ids)].slice(0, WATCHED_MAX).sort();
    if (wanted.join() === this.watched.join()) return;
    this.watched = wanted;
    this.follow();
    void this.askAccounts();
  }

  private readonly look = (): void => {
    if (document.hidden) {
      clearTimeout(this.poll);
      this.stream?.stop();
      this.stream = null;
    } else {
      void this.ask();
      this.follow();
    }
  };

  private follow(): void {
    this.stream?.stop();
    this.stream = null;
    if (this.watched.length === 0 || this.stopped || document.hidden) return;
    this.stream = new Stream(
      this.hub,
      this.watched,
      "",
      (record) => {
        this.take(record);
      },
      (live) => {
        this.set({ live });
      },
    );
  }

  private async ask(): Promise<void> {
    clearTimeout(this.poll);
    const begun = performance.now();
    try {
      const { now, rows } = await this.hub.latest();
      const here = Date.now() / 1000;
      for (const row of rows) this.merge(row, here);
      this.set({ answered: here, unreachable: false, refused: 0, clockAhead: now - here });
      await this.askReports();
      void this.askAccounts();
    } catch (error) {
      const status = error instanceof HubError ? error.status : 0;
      if (status === 401 || status === 403) {
        this.set({ refused: status });
        return;
      }
      this.set({ unreachable: true });
    }
    if (this.stopped || document.hidden) return;
    const wait = Math.max(POLL_MS, POLL_PER_COST * (performance.now() - begun));
    this.poll = setTimeout(() => void this.ask(), wait);
  }

  private async askReports(): Promise<void> {
    try {
      const { rows } = await this.hub.latest("fleet");
      const reports = rows
        .filter((row) => row.newest !== null)
        .map((row): Report => ({ ...row.newest, timestamp: row.last_modified / 1000 }));
      this.set({ reports });
    } catch {
      // A hub of before has no such bucket, and not every reader may read it.
    }
  }

  /** One after the other, those that are looked at and the other devices of their stations. */
  private async askAccounts(): Promise<void> {
    if (this.accounting) return;
    this.accounting = true;
    try {
      for (let id = this.due(); id !== undefined && !this.stopped; id = this.due()) {
        this.accounts.set(id, { at: Date.now() / 1000, account: await this.hub.account(id) });
        const row = this.rows.get(id);
        if (row !== undefined)
          this.rows.set(id, { ...row, account: this.accounts.get(id)?.account });
        this.showSoon();
      }
    } catch {
      // The next question for all says whether the hub is away.
    }
    this.accounting = false;
  }

  private due(): string | undefined {
    const before = Date.now() / 1000 - ACCOUNT_S;
    const isDue = (id: string): boolean => (this.accounts.get(id)?.at ?? 0) < before;
    const own = this.watched.find((id) => this.rows.has(id) && isDue(id));
    if (own !== undefined || this.watched.length === 0) return own;
    const epochs = new Set(this.watched.map((id) => this.rows.get(id)?.newest?.epoch ?? ""));
    for (const [id, row] of this.rows)
      if (row.newest !== null && epochs.has(row.newest.epoch) && isDue(id)) return id;
    return undefined;
  }

  private merge(latest: Latest, at: number): void {
    const samples = this.samples.get(latest.id) ?? [];
    samples.push({ at, records: latest.records });
    while (samples.length > 2 && (samples[1]?.at ?? at) < at - RATE_OVER_S) samples.shift();
    this.samples.set(latest.id, samples);
    const first = samples[0] ?? { at, records: 0 };
    const over = at - first.at;
    const rate = over < RATE_FROM_S ? null : ((latest.records - first.records) / over) * 60;
    const known = this.rows.get(latest.id);
    // The stream may have brought a newer one while this was on its way.
    const newer = known !== undefined && known.last_modified > latest.last_modified;
    this.rows.set(latest.id, {
      ...latest,
      ...(newer && { newest: known.newest, last_modified: known.last_modified }),
      rate: rate === null ? null : Math.max(0, rate),
      account: known?.account,
    });
  }

  private take(record: TelemetryRecord): void {
    const row = this.rows.get(record.devID);
    const modified = Number(record["last_modified"]);
    if (row === undefined || modified <= row.last_modified) return;
    const newer = record.timestamp >= (row.newest?.timestamp ?? 0);
    this.rows.set(row.id, {
      ...row,
      records: row.records + 1,
      last_modified: modified,
      newest: newer ? record : row.newest,
    });
    this.showSoon();
  }

  private showSoon(): void {
    this.show ??= setTimeout(() => {
      this.set({});
    }, SHOW_MS);
  }

  private set(change: Partial<Network>): void {
    clearTimeout(this.show);
    this.show = undefined;
    this.state = { ...this.state, ...change, rows: [...this.rows.values()] };
    if (!this.stopped) this.changed(this.state);
  }
}

export function useNetwork(
  settings: Settings,
  authorization: string,
): { network: Network; feed: NetworkFeed | null } {
  const [network, set] = useState(NOTHING);
  const [feed, setFeed] = useState<NetworkFeed | null>(null);
  useEffect(() => {
    const made = new NetworkFeed(new Hub(settings, authorization), set);
    set(NOTHING);
    setFeed(made);
    made.start();
    return () => {
      made.stop();
    };
  }, [settings, authorization]);
  return { network, feed };
}
