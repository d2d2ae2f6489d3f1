import { useState } from "preact/hooks";
import type { TelemetryRecord } from "../data/agent";
import type { Balance } from "../data/balance";
import { COLLECTED_MAX } from "../data/collect";
import { balanceLines, csv } from "../data/csv";
import type { Hub } from "../data/hub";
import type { Span } from "../data/series";
import { fill } from "../text";
import { useWords } from "./context";
import { save, stamp } from "./save";

interface Props {
  hub: Hub;
  device: string;
  span: Span;
  balance: Balance[] | null;
}

/** The records of the shown span as a file, with the balance of the packages at its end. */
export function HubDownload({ hub, device, span, balance }: Props) {
  const { texts } = useWords();
  const [count, setCount] = useState<number | null>(null);
  const [said, setSaid] = useState("");

  async function download(): Promise<void> {
    setSaid("");
    setCount(0);
    const from = Math.max(0, Math.floor(span.from));
    const to = Math.ceil(span.to);
    const records: TelemetryRecord[] = [];
    try {
      for await (const page of hub.records(device, from, to)) {
        records.push(...page);
        setCount(records.length);
        if (records.length >= COLLECTED_MAX) {
          setSaid(fill(texts.exportCut, { n: COLLECTED_MAX }));
          break;
        }
      }
      const text = csv(records) + balanceLines(device, balance ?? []);
      save(text, `${device}-${stamp(from)}-${stamp(to)}.csv`);
    } catch (error) {
      setSaid(error instanceof Error ? error.message : "?");
    }
    setCount(null);
  }

  return (
    <p class="tools">
      <button type="button" disabled={count !== null} onClick={() => void download()}>
        {texts.export}: {device}
      </button>
      <span role="status">{count === null ? said : fill(texts.exporting, { n: count })}</span>
    </p>
  );
}
