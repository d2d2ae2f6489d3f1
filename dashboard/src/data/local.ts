/** What a station's page has from the local Kinto, and from the spool where that is away. */

import { useEffect, useMemo, useState } from "preact/hooks";
import type { Drawn } from "../components/Charts";
import type { Sink, TelemetryRecord } from "./agent";
import { asRecords, draw, useHistory } from "./history";
import { Hub } from "./hub";
import { makeSeries, timeOf, type Span } from "./series";

/** The page's own server gives `default` the bucket's name, and takes no password. */
export const LOCAL = new Hub({ bucket: "default", location: "exact" }, "");

/** The newest record of each device, also of those that the spool let go long ago. */
export function useNewest(hub: Hub | null): Map<string, TelemetryRecord> {
  const [newest, set] = useState(new Map<string, TelemetryRecord>());
  useEffect(() => {
    let stopped = false;
    hub
      ?.latest()
      .then(({ rows }) => {
        const found = rows.flatMap(({ id, newest }) => (newest ? [[id, newest] as const] : []));
        if (!stopped) set(new Map(found));
      })
      .catch(() => {
        // The series say why there is no answer.
      });
    return () => {
      stopped = true;
    };
  }, [hub]);
  return newest;
}

export interface Charted {
  drawn: Drawn;
  /** What is drawn, record by record as far as the page has them, and before those means. */
  rows: TelemetryRecord[];
  /** Seconds that a row before the records stands for; 0 where all are records. */
  step: number;
  /** When the oldest record came, seconds UTC. */
  first: number | undefined;
  /** From which moment on the spool's records are needed, seconds UTC; null is as far as they go. */
  since: number | null;
  /** Why the local Kinto does not answer, or "". */
  failed: string;
}

/**
 * The series that the local Kinto has of one device and what came since; the spool's records alone
 * where Kinto does not answer.
 *
 * Args: `own` are the device's records in the page, ascending; `sink` how the agent delivers to Kinto.
 */
export function useCharted(
  hub: Hub | null,
  device: string,
  fields: readonly string[],
  own: readonly TelemetryRecord[],
  span: Span,
  whole: boolean,
  sink: Sink | undefined,
): Charted {
  const history = useHistory(hub, device === "" ? [] : [device], fields, span, whole);
  const answer = history.failed === "" ? history.answers.get(device) : undefined;
  const names = fields.join();
  const pending = sink !== undefined && sink.pending > 0 ? sink.oldest_s : 0;
  // What waits for Kinto is drawn from the spool; and while Kinto is being asked, what is there.
  const since = (answer?.asked ?? span.to) - pending;
  const oldest = own[0] && timeOf(own[0]);
  const cut = Math.max(Math.floor(since), oldest ?? -Infinity);
  const drawn = useMemo(() => {
    const fields = names === "" ? [] : names.split(",");
    if (answer !== undefined) return draw(new Map([[device, answer]]), own, fields, cut);
    const { times, columns } = makeSeries(own, fields);
    const lines = [...columns].map(([field, values]) => [field, [{ device, values }]] as const);
    return { times, lines: new Map(lines) };
  }, [answer, own, names, device, cut]);
  const means = useMemo(() => asRecords(device, answer, oldest), [answer, device, oldest]);
  const rows = useMemo(() => [...means, ...own], [means, own]);
  return {
    drawn,
    rows,
    step: means.length > 0 ? (answer?.step ?? 0) : 0,
    first: answer === undefined ? oldest : (history.first ?? undefined),
    since: hub === null || history.failed !== "" ? null : since,
    failed: hub === null ? "" : history.failed,
  };
}
