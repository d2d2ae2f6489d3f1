/** The way of a package, stage by stage, and where it stands still: from the agent's own status. */

import type { Sink, Status } from "./agent";

export type Stage = "device" | "port" | "spool" | "local" | "hub";
export type State = "ok" | "held" | "late" | "stopped" | "unknown" | "none";

export interface Link {
  stage: Stage;
  state: State;
  /** The agent's own sentence, or "" where it has none. */
  detail: string;
  pending: number;
  /** Seconds that the oldest package has waited. */
  oldest: number;
}

export interface Seen {
  status: Status | null;
  /** Seconds since the newest record came, null where there is none. */
  age: number | null;
  /** The usual distance of two records in seconds. */
  interval: number;
}

const SILENT_AFTER_INTERVALS = 5;
const SILENT_AFTER_S = 15;
const LATE_PENDING = 10;

export const silentAfter = (interval: number): number =>
  Math.max(SILENT_AFTER_S, SILENT_AFTER_INTERVALS * interval);

export function makeChain({ status, age, interval }: Seen): Link[] {
  const link = (stage: Stage, state: State, detail = "", pending = 0, oldest = 0): Link => ({
    stage,
    state,
    detail,
    pending,
    oldest,
  });
  if (status === null)
    return (["device", "port", "spool", "local", "hub"] as const).map((stage) =>
      link(stage, "unknown"),
    );
  const silent = age === null || age > silentAfter(interval);
  const away = status.ports.filter((port) => port.state !== "reading");
  const waiting = status.spool.waiting_for_room;
  return [
    // Behind a port that is gone, nothing is known of a device that is silent.
    link("device", !silent ? "ok" : away.length > 0 ? "unknown" : "stopped"),
    link(
      "port",
      away.length > 0 ? "stopped" : "ok",
      away.map((port) => port.detail || `${port.name}: ${port.state}`).join("; "),
    ),
    link("spool", waiting > 0 ? "stopped" : "ok", "", waiting),
    sinkLink("local", status.sinks.local),
    sinkLink(
      "hub",
      status.sinks.hub,
      status.clock.synchronised ? 0 : status.clock.waiting_for_time,
    ),
  ];

  /** `held` of what is pending waits for the clock: only the hub is spared packages without a time. */
  function sinkLink(stage: Stage, sink: Sink | undefined, held = 0): Link {
    if (sink === undefined) return link(stage, "none");
    const state =
      sink.state === "backing_off" || sink.state === "paused"
        ? "stopped"
        : sink.pending - held > LATE_PENDING
          ? "late"
          : held > 0 && sink.pending > 0
            ? "held"
            : "ok";
    return link(stage, state, sink.detail, sink.pending, sink.oldest_s);
  }
}

/** The first stage that stands still; packages behind it are on the way of no one. */
export const standsAt = (chain: readonly Link[]): Link | undefined =>
  (["stopped", "late", "held"] as const)
    .map((state) => chain.find((link) => link.state === state))
    .find((link) => link !== undefined);
