/** Why a station is silent, in one sentence: from the last report of its agent, and the report's age. */

import type { Report } from "./hub";

export type WhyKey =
  | "whyNoReport"
  | "whyGone"
  | "whyPower"
  | "whyUpdate"
  | "whyClock"
  | "whyNetwork"
  | "whySays"
  | "whyDevice";

export interface Why {
  key: WhyKey;
  /** Seconds since the report; 0 without one. */
  age: number;
  /** The agent's own words, or a number. */
  detail: string;
}

/** Reports come hourly, give or take, and whenever something changes. */
const REPORT_OLD_S = 7200;
/** In the other phases of an update the agent runs. */
const UPDATING = new Set(["switching", "returning"]);
const WELL = new Set(["", "ok", "good", "synced", "synchronised"]);

export function whySilent(report: Report | undefined, now: number): Why {
  if (report === undefined) return { key: "whyNoReport", age: 0, detail: "" };
  const age = Math.max(0, now - report.timestamp);
  const why = (key: WhyKey, detail = ""): Why => ({ key, age, detail });
  const phase = report.update?.phase ?? "";
  if (UPDATING.has(phase)) return why("whyUpdate", report.update?.said ?? phase);
  if (!WELL.has(report.power ?? "")) return why("whyPower", report.power);
  if (age > REPORT_OLD_S) return why("whyGone");
  const [problem] = report.problems ?? [];
  if (problem !== undefined) return why("whySays", problem);
  if (!WELL.has(report.clock ?? "")) return why("whyClock");
  const pending = report.pending?.["hub"] ?? 0;
  if (pending > 0) return why("whyNetwork", String(pending));
  return why("whyDevice");
}
