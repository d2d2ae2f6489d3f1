/** Every package accounted for: what stations numbered, and what the hub holds. */

import type { Account, Report } from "./hub";

export interface Balance {
  epoch: string;
  first: number;
  last: number;
  /** Numbers that the station gave between first and last. */
  sent: number;
  stored: number;
  /** Waited at the station when it last said so. */
  onWay: number;
  /** At least so many are neither here nor waiting. */
  lost: number;
  /** Numbers that are not here, of which the station has not said yet whether they wait. */
  open: number;
}

/**
 * The balance of each epoch of one device. A station numbers the packages of all its devices together,
 * so an epoch's numbers are looked for in every collection that has some of them.
 */
export function balances(
  own: Account,
  all: Iterable<Account>,
  report: (epoch: string) => Report | undefined,
): Balance[] {
  const found = new Map<string, Balance>();
  for (const { epoch } of own.epochs)
    if (epoch !== "")
      found.set(epoch, {
        epoch,
        first: Infinity,
        last: -Infinity,
        sent: 0,
        stored: 0,
        onWay: 0,
        lost: 0,
        open: 0,
      });
  for (const account of all)
    for (const part of account.epochs) {
      const sum = found.get(part.epoch);
      if (sum === undefined || part.first_seq === null || part.last_seq === null) continue;
      sum.first = Math.min(sum.first, part.first_seq);
      sum.last = Math.max(sum.last, part.last_seq);
      sum.stored += part.records;
    }
  return [...found.values()]
    .filter((sum) => sum.last >= sum.first)
    .map((sum) => {
      const sent = sum.last - sum.first + 1;
      const missing = Math.max(0, sent - sum.stored);
      const { pending, last_seq: reported } = report(sum.epoch) ?? {};
      const waiting = pending?.["hub"];
      if (waiting === undefined || reported === undefined) return { ...sum, sent, open: missing };
      const onWay = Math.min(missing, waiting);
      // Numbers given since the report may wait as well.
      const lost = Math.max(0, missing - onWay - Math.max(0, sum.last - reported));
      return { ...sum, sent, onWay, lost, open: missing - onWay - lost };
    })
    .sort((a, b) => b.last - a.last);
}

export function total(parts: readonly Balance[]): Omit<Balance, "epoch" | "first" | "last"> {
  const sum = { sent: 0, stored: 0, onWay: 0, lost: 0, open: 0 };
  for (const part of parts)
    for (const key of ["sent", "stored", "onWay", "lost", "open"] as const) sum[key] += part[key];
  return sum;
}
