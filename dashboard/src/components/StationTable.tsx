import { unit, valueOf, written } from "../data/fields";
import type { Station } from "../data/stations";
import { fill } from "../text";
import { span } from "../time";
import type { SetView, View } from "../view";
import { Pager } from "./Pager";
import { useWords } from "./context";

export const ROWS = 50;
const COMPARED_MAX = 4;
const SHOWN = ["temperature", "humidity", "pressure", "pm25"] as const;
// What a telephone shows of a row without scrolling comes first.
const COLUMNS = ["device", "state", "age", "rate", "records", "missing", ...SHOWN] as const;

interface Props {
  /** Those that were searched for, in the order of the view. */
  stations: Station[];
  chosen: readonly string[];
  view: View;
  setView: SetView;
}

/** Stations as a table, page by page: ten thousand of them are no more than fifty rows. */
export function StationTable({ stations, chosen, view, setView }: Props) {
  const { texts, language } = useWords();
  const number = new Intl.NumberFormat(language, { maximumFractionDigits: 1 });
  const pages = Math.max(1, Math.ceil(stations.length / ROWS));
  const at = Math.min(view.page, pages - 1);
  const sorted = view.sort.replace("-", "") || "device";
  const heads: Record<string, string> = {
    device: texts.device,
    age: texts.lastSeen,
    state: texts.state,
    rate: texts.rate,
    records: texts.records,
    missing: texts.notHere,
  };
  return (
    <>
      <div
        class="scroll"
        tabIndex={0}
        role="region"
        aria-label={fill(texts.found, { n: stations.length })}
      >
        <table class="stations">
          <thead>
            <tr>
              <td>
                <span class="unseen">{texts.compare}</span>
              </td>
              {COLUMNS.map((column) => (
                <th
                  key={column}
                  scope="col"
                  {...(sorted === column && {
                    "aria-sort": view.sort.startsWith("-") ? "descending" : "ascending",
                  })}
                >
                  <button
                    type="button"
                    class="sort"
                    onClick={() => {
                      const same = sorted === column && !view.sort.startsWith("-");
                      setView({ sort: same ? `-${column}` : column, page: 0 });
                    }}
                  >
                    {heads[column] ?? column} <small>{unit(column)}</small>
                    <span aria-hidden="true">
                      {sorted === column ? (view.sort.startsWith("-") ? " ▼" : " ▲") : ""}
                    </span>
                  </button>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>{stations.slice(at * ROWS, (at + 1) * ROWS).map(row)}</tbody>
        </table>
      </div>
      <Pager
        at={at}
        pages={pages}
        before={texts.previous}
        after={texts.next}
        onPage={(page) => {
          setView({ page });
        }}
      />
    </>
  );

  function row(station: Station) {
    const { id, age, newest, missing } = station;
    const isChosen = chosen.includes(id);
    return (
      <tr key={id} data-station={id} class={station.state}>
        <td>
          <input
            type="checkbox"
            aria-label={fill(texts.compareOne, { device: id })}
            checked={isChosen}
            disabled={!isChosen && chosen.length >= COMPARED_MAX}
            onChange={() => {
              const others = chosen.filter((one) => one !== id);
              setView({ device: (isChosen ? others : [...chosen, id]).join() });
            }}
          />
        </td>
        <th scope="row">
          <a
            href={`?device=${encodeURIComponent(id)}`}
            onClick={(event) => {
              if (event.ctrlKey || event.metaKey || event.shiftKey) return;
              event.preventDefault();
              setView({ device: id, zoom: null });
              document.getElementById("chosen")?.focus();
            }}
          >
            {id}
          </a>
        </th>
        <td>
          <span class={`mark ${station.state}`}>
            {station.state === "live" ? texts.onAir : texts[station.state]}
          </span>
        </td>
        <td>{age === null ? "–" : span(age, texts)}</td>
        <td>{station.rate === null ? "–" : number.format(station.rate)}</td>
        <td>{number.format(station.records)}</td>
        <td>{missing === null ? "…" : number.format(missing)}</td>
        {SHOWN.map((field) => (
          <td key={field}>{newest === null ? "–" : written(valueOf(newest, field), language)}</td>
        ))}
      </tr>
    );
  }
}
