import { useState } from "preact/hooks";
import { collect, COLLECTED_MAX } from "../data/collect";
import { csv } from "../data/csv";
import type { Hub } from "../data/hub";
import type { Span } from "../data/series";
import { fill } from "../text";
import { useWords } from "./context";
import { save, stamp } from "./save";

interface Props {
  /** The local Kinto; null where there is none. */
  hub: Hub | null;
  /** Whether some records still wait for it. */
  waiting: boolean;
  station: string;
  device: string;
  span: Span;
}

/** The records of the shown span as a file. */
export function Download({ hub, waiting, station, device, span }: Props) {
  const { texts } = useWords();
  const [count, setCount] = useState<number | null>(null);
  const [said, setSaid] = useState("");

  async function download(): Promise<void> {
    setSaid("");
    setCount(0);
    try {
      const { records, cut, failed } = await collect(hub, waiting, device, span, setCount);
      save(csv(records), `${station}-${device}-${stamp(span.from)}-${stamp(span.to)}.csv`);
      if (failed !== "") setSaid(fill(texts.exportSpool, { reason: failed }));
      else if (cut) setSaid(fill(texts.exportCut, { n: COLLECTED_MAX }));
    } catch (error) {
      setSaid(error instanceof Error ? error.message : "?");
    }
    setCount(null);
  }

  return (
    <p class="tools">
      <button type="button" disabled={count !== null} onClick={() => void download()}>
        {texts.export}
      </button>
      <a href="/table">{texts.plain}</a>
      <span role="status">{count === null ? said : fill(texts.exporting, { n: count })}</span>
    </p>
  );
}
