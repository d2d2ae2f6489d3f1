import { useEffect, useMemo } from "preact/hooks";
import { Chain } from "../components/Chain";
import { Charts, shownSpan } from "../components/Charts";
import { WordsContext } from "../components/context";
import { Details } from "../components/Details";
import { Download } from "../components/Download";
import { Header } from "../components/Header";
import { Live } from "../components/Live";
import { RecordsTable } from "../components/RecordsTable";
import { TrackPicture } from "../components/TrackPicture";
import { makeChain, silentAfter } from "../data/chain";
import { numericFields } from "../data/fields";
import { LOCAL, useCharted, useNewest } from "../data/local";
import { missingNumbers, timeOf, usualInterval } from "../data/series";
import { useStation } from "../data/station";
import { fill, TEXTS } from "../text";
import { clockTime, span as spanText } from "../time";
import { useNow } from "../now";
import { RANGE_S, useView } from "../view";

const CLOCKS_DIFFER_S = 60;

export function StationPage() {
  const [view, setView] = useView();
  const now = useNow();
  const [station, feed] = useStation();
  const { status, records, clockAhead } = station;
  const name = status?.station;
  const texts = TEXTS[view.language];
  const zone = { name: station.timezone, language: view.language };

  const sink = status?.sinks.local;
  const kinto = sink === undefined ? null : LOCAL;
  const known = useNewest(kinto);
  const devices = useMemo(
    () => [...new Set([...records.map((record) => record.devID), ...known.keys()])].sort(),
    [records, known],
  );
  const device = devices.includes(view.device) ? view.device : (devices[0] ?? "");
  const own = useMemo(() => records.filter((record) => record.devID === device), [records, device]);
  const stationNow = now + clockAhead;
  const newest = own.at(-1) ?? known.get(device);
  const whole = view.range === "all" && view.zoom === null;
  const fields = useMemo(
    () => numericFields(own.length > 0 ? own.slice(-500) : newest ? [newest] : []),
    [own, newest],
  );
  const asked = shownSpan(view, own[0] && timeOf(own[0]), stationNow);
  const charted = useCharted(kinto, device, fields, own, asked, whole, sink);
  const span = shownSpan(view, charted.first, stationNow);
  // A span that is over needs no newer records.
  const back = view.zoom === null ? RANGE_S[view.range] : stationNow - view.zoom.from;
  feed.want(charted.since === null ? back : stationNow - charted.since);
  const from = Math.floor(span.from);
  const to = Math.ceil(span.to);
  const times = useMemo(() => own.map(timeOf), [own]);
  const { rows } = charted;
  const shown = useMemo(
    () => rows.filter((row) => timeOf(row) >= from && timeOf(row) <= to),
    [rows, from, to],
  );
  const lost = useMemo(() => missingNumbers(records), [records]);
  const last = records.at(-1);
  const age = (record: typeof newest): number | null =>
    record === undefined ? null : Math.max(0, stationNow - timeOf(record));
  const interval = usualInterval(times);
  const chain = makeChain({
    status: station.unreachable ? null : status,
    age: age(last),
    interval,
  });

  useEffect(() => {
    document.title = name === undefined ? "UniSat" : `${name} – UniSat`;
  }, [name]);

  return (
    <WordsContext.Provider value={{ texts, language: view.language, zone }}>
      <Header
        name={name ?? "UniSat"}
        health={station.unreachable ? null : (status?.health ?? null)}
        view={view}
        setView={setView}
      />
      <main id="main" tabIndex={-1}>
        {station.unreachable && (
          <p class="alarm" role="alert">
            {station.answered > 0
              ? fill(texts.unreachable, {
                  time: clockTime(station.answered + clockAhead, zone),
                })
              : texts.loading}
          </p>
        )}
        {Math.abs(clockAhead) > CLOCKS_DIFFER_S && (
          <p class="warning">
            {fill(texts.clockDiffers, { span: spanText(Math.abs(clockAhead), texts) })}
          </p>
        )}
        {status === null && !station.unreachable && <p>{texts.loading}</p>}
        {status !== null && <Chain chain={chain} age={age(last)} />}
        {devices.length > 1 && (
          <div class="tools" role="group" aria-label={texts.devices}>
            {devices.map((name) => (
              <button
                key={name}
                type="button"
                aria-pressed={name === device}
                onClick={() => {
                  setView({ device: name });
                }}
              >
                {name}
              </button>
            ))}
          </div>
        )}
        {newest !== undefined && (
          <>
            <Live
              record={newest}
              age={age(newest) ?? 0}
              silent={(age(newest) ?? 0) > silentAfter(interval)}
            />
            {charted.failed !== "" && (
              <p class="warning" role="status">
                {fill(texts.fromSpool, { reason: charted.failed })}
              </p>
            )}
            <Charts
              drawn={charted.drawn}
              span={span}
              progress={charted.since === null ? station.progress : null}
              view={view}
              setView={setView}
            />
            <Download
              hub={kinto}
              waiting={(sink?.pending ?? 0) > 0}
              station={name ?? "station"}
              device={device}
              span={span}
            />
            <RecordsTable records={shown} fields={fields} step={charted.step} />
            <TrackPicture records={shown} />
          </>
        )}
        {status !== null && (
          <Details
            status={status}
            refused={station.refused}
            newest={newest}
            disk={station.disk}
            counted={records.length}
            lost={lost}
          />
        )}
      </main>
      <footer>{fill(texts.timeZone, { zone: station.timezone })}</footer>
    </WordsContext.Provider>
  );
}
