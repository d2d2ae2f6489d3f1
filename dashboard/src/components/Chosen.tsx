import { useMemo } from "preact/hooks";
import type { TelemetryRecord } from "../data/agent";
import { numericFields } from "../data/fields";
import { asRecords, useDrawn, useHistory } from "../data/history";
import type { Hub, Settings } from "../data/hub";
import type { Network } from "../data/network";
import { balanceOf, type Station } from "../data/stations";
import type { SetView, View } from "../view";
import { Accounting } from "./Accounting";
import { Charts, shownSpan } from "./Charts";
import { useWords } from "./context";
import { HubDownload } from "./HubDownload";
import { Live } from "./Live";
import { RecordsTable } from "./RecordsTable";
import { Silence } from "./Silence";
import { TrackPicture } from "./TrackPicture";

interface Props {
  hub: Hub;
  settings: Settings;
  network: Network;
  stations: Station[];
  now: number;
  view: View;
  setView: SetView;
}

/** One station, or some side by side: values, charts, packages, file. */
export function Chosen({ hub, settings, network, stations, now, view, setView }: Props) {
  const { texts } = useWords();
  const newest = stations.map((station) => station.newest).filter((one) => one !== null);
  const fields = numericFields(newest);
  const names = stations.map(({ id }) => id);
  const whole = view.range === "all" && view.zoom === null;
  const history = useHistory(hub, names, fields, shownSpan(view, undefined, now), whole);
  const span = shownSpan(view, history.first ?? undefined, now);
  const drawn = useDrawn(history, newest, fields);
  const [one] = stations.length === 1 ? stations : [];
  const records = useMemo<TelemetryRecord[]>(
    () => (one === undefined ? [] : asRecords(one.id, history.answers.get(one.id))),
    [one, history.answers],
  );
  return (
    <>
      <section id="chosen" aria-labelledby="chosen-title" tabIndex={-1}>
        <h2 id="chosen-title">{names.join(", ")}</h2>
        <p class="tools">
          <button
            type="button"
            onClick={() => {
              setView({ device: "", zoom: null });
            }}
          >
            {texts.close}
          </button>
        </p>
        {stations
          .filter(({ state }) => state !== "live")
          .map((station) => (
            <p key={station.id} class="warning">
              {stations.length > 1 && `${station.id}: `}
              <Silence station={station} now={now} />
            </p>
          ))}
        {stations.map(({ id }) => (
          <Accounting key={id} device={id} parts={balanceOf(network, id)} />
        ))}
        {stations.map(({ id }) => (
          <HubDownload
            key={id}
            hub={hub}
            device={id}
            span={span}
            balance={balanceOf(network, id)}
          />
        ))}
      </section>
      {one?.newest != null && (
        <Live record={one.newest} age={one.age ?? 0} silent={one.state === "silent"} />
      )}
      {history.failed !== "" && (
        <p class="alarm" role="alert">
          {texts.chartsFailed} {history.failed}
        </p>
      )}
      <Charts drawn={drawn} span={span} progress={null} view={view} setView={setView} />
      {one !== undefined && (
        <RecordsTable
          records={records}
          fields={fields}
          step={history.answers.get(one.id)?.step ?? 0}
        />
      )}
      {one !== undefined && settings.location === "exact" && <TrackPicture records={records} />}
    </>
  );
}
