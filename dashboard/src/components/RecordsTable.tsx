import { useState } from "preact/hooks";
import type { TelemetryRecord } from "../data/agent";
import { unit, valueOf, written } from "../data/fields";
import { timeOf } from "../data/series";
import { fill } from "../text";
import { dateTime, span } from "../time";
import { Pager } from "./Pager";
import { useWords } from "./context";

const ROWS = 20;

interface Props {
  records: TelemetryRecord[];
  fields: string[];
  /** Seconds that a row stands for, where it is a mean; 0 where all are records. */
  step: number;
}

/** The numbers behind the charts, newest first, page by page. */
export function RecordsTable({ records, fields, step }: Props) {
  const { texts, language, zone } = useWords();
  const [open, setOpen] = useState(false);
  const [page, setPage] = useState(0);
  const pages = Math.max(1, Math.ceil(records.length / ROWS));
  const at = Math.min(page, pages - 1);
  const end = records.length - at * ROWS;
  const rows = open ? records.slice(Math.max(0, end - ROWS), end).reverse() : [];
  return (
    <details
      open={open}
      onToggle={(event) => {
        setOpen(event.currentTarget.open);
      }}
    >
      <summary>{texts.table}</summary>
      {step > 1 && <p class="help">{fill(texts.means, { span: span(step, texts) })}</p>}
      <div class="scroll" tabIndex={0} role="region" aria-label={texts.table}>
        <table>
          <thead>
            <tr>
              <th scope="col">{texts.time}</th>
              {fields.map((field) => (
                <th key={field} scope="col">
                  {field} <small>{unit(field)}</small>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((record) => (
              <tr key={record.id}>
                <th scope="row">{dateTime(timeOf(record), zone)}</th>
                {fields.map((field) => (
                  <td key={field}>{written(valueOf(record, field), language)}</td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Pager at={at} pages={pages} before={texts.newer} after={texts.olderPage} onPage={setPage} />
    </details>
  );
}
