import type { Network } from "../data/network";
import type { Station } from "../data/stations";
import { fill } from "../text";
import { clockTime } from "../time";
import { useWords } from "./context";
import { Silence } from "./Silence";

interface Props {
  network: Network;
  stations: Station[];
  now: number;
}

const LISTED = 8;

/** The network at a glance, for a projector: how many live, which are silent and why. */
export function Wall({ network, stations, now }: Props) {
  const { texts, language, zone } = useWords();
  const number = new Intl.NumberFormat(language, { maximumFractionDigits: 0 });
  const silent = stations
    .filter(({ state }) => state === "silent")
    .sort((a, b) => (a.age ?? 0) - (b.age ?? 0));
  const sum = (key: "records" | "rate"): number =>
    stations.reduce((total, station) => total + (station[key] ?? 0), 0);
  const figures = [
    [texts.onAir, stations.filter(({ state }) => state === "live").length],
    [texts.silent, silent.length],
    [texts.rate, stations.some(({ rate }) => rate !== null) ? sum("rate") : null],
    [texts.records, sum("records")],
  ] as const;
  return (
    <section aria-labelledby="wall-title">
      <h2 id="wall-title">
        {clockTime(now, zone)} <small>{zone.name}</small>
      </h2>
      <dl class="figures">
        {figures.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value === null ? "–" : number.format(value)}</dd>
          </div>
        ))}
      </dl>
      {silent.length > 0 && (
        <ul class="silences">
          {silent.slice(0, LISTED).map((station) => (
            <li key={station.id}>
              <strong>{station.id}</strong> <Silence station={station} now={now} />
            </li>
          ))}
        </ul>
      )}
      {silent.length > LISTED && <p>{fill(texts.more, { n: silent.length - LISTED })}</p>}
      {silent.length === 0 && network.answered > 0 && <p>{texts.noneSilent}</p>}
    </section>
  );
}
