/** The stations as the network page shows them: what is known of each, searched and in order. */

import { balances, total, type Balance } from "./balance";
import type { Account, Report } from "./hub";
import type { Network, Row } from "./network";
import { valueOf } from "./fields";
import type { Place } from "./places";

export interface Station extends Row {
  /** Seconds since the newest record, null where there is none. */
  age: number | null;
  state: "live" | "silent" | "never";
  report: Report | undefined;
  /** Numbers that are not at the hub; null while that is asked. */
  missing: number | null;
}

/** Silent is who sent nothing for five of its usual intervals, and for a minute. */
const SILENT_S = 60;
const INTERVALS = 5;

export function makeStations(network: Network, now: number): Station[] {
  const reports = new Map(network.reports.map((report) => [report.epoch ?? "", report]));
  const accounts = accountsOf(network.rows);
  return network.rows.map((row) => {
    const age = row.newest === null ? null : Math.max(0, now - row.newest.timestamp);
    const interval = row.rate ? 60 / row.rate : 0;
    const silent = age !== null && age > Math.max(SILENT_S, INTERVALS * interval);
    const parts = row.account && balances(row.account, accounts, (epoch) => reports.get(epoch));
    const sum = parts && total(parts);
    return {
      ...row,
      age,
      state: age === null ? "never" : silent ? "silent" : "live",
      report: row.newest === null ? undefined : reports.get(row.newest.epoch),
      missing: sum === undefined ? null : sum.sent - sum.stored,
    };
  });
}

const accountsOf = (rows: readonly Row[]): Account[] =>
  rows.map(({ account }) => account).filter((account) => account !== undefined);

/** Where each number of a station's packages is, spool by spool. */
export function balanceOf(network: Network, id: string): Balance[] | null {
  const own = network.rows.find((row) => row.id === id)?.account;
  if (own === undefined) return null;
  const reports = new Map(network.reports.map((report) => [report.epoch ?? "", report]));
  return balances(own, accountsOf(network.rows), (epoch) => reports.get(epoch));
}

const ORDERS: Partial<Record<string, (station: Station) => number | string>> = {
  device: ({ id }) => id,
  age: ({ age }) => age ?? Infinity,
  state: ({ state }) => state,
  rate: ({ rate }) => rate ?? -1,
  records: ({ records }) => records,
  missing: ({ missing }) => missing ?? -1,
};

/** Those whose name holds a text, in the order of a column; a "-" before its name turns it around. */
export function choose(stations: readonly Station[], search: string, sort: string): Station[] {
  const wanted = search.trim().toLowerCase();
  const column = sort.replace("-", "") || "device";
  const key =
    ORDERS[column] ??
    (({ newest }: Station) => {
      const value = newest === null ? undefined : valueOf(newest, column);
      return typeof value === "number" ? value : -Infinity;
    });
  const turn = sort.startsWith("-") ? -1 : 1;
  const keyed = stations
    .filter(({ id }) => id.toLowerCase().includes(wanted))
    .map((station) => ({ station, at: key(station) }));
  keyed.sort((a, b) => (a.at < b.at ? -turn : a.at > b.at ? turn : 0));
  return keyed.map(({ station }) => station);
}

export function placesOf(stations: readonly Station[]): Place[] {
  const places: Place[] = [];
  for (const { id, newest, state } of stations) {
    const lat = newest?.["lat"];
    const long = newest?.["long"];
    if (typeof lat !== "number" || typeof long !== "number") continue;
    // 0/0 is what a receiver without a fix says.
    if (Math.abs(lat) > 90 || Math.abs(long) > 180 || (lat === 0 && long === 0)) continue;
    places.push({ id, lat, long, silent: state !== "live" });
  }
  return places;
}
