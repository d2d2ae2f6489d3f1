import { useMemo } from "preact/hooks";
import type { TelemetryRecord } from "../data/agent";
import { makeTrack } from "../data/track";
import { fill } from "../text";
import { useWords } from "./context";

const SIZE = 300;
const MARGIN = 30;

/** Where the device was, in metres, with a scale and north. */
export function TrackPicture({ records }: { records: TelemetryRecord[] }) {
  const { texts, language } = useWords();
  const track = useMemo(() => makeTrack(records), [records]);
  const last = track?.points.at(-1);
  return (
    <section aria-labelledby="track-title">
      <h2 id="track-title">{texts.track}</h2>
      {track === null || last === undefined ? <p>{texts.noTrack}</p> : picture(track.points, last)}
    </section>
  );

  function picture(points: { x: number; y: number }[], now: { x: number; y: number }) {
    if (track === null) return null;
    const scale = (SIZE / 2 - MARGIN) / track.reach;
    const place = ({ x, y }: { x: number; y: number }): string =>
      `${(SIZE / 2 + x * scale).toFixed(1)},${(SIZE / 2 - y * scale).toFixed(1)}`;
    const number = new Intl.NumberFormat(language, { maximumFractionDigits: 5 });
    const words = fill(texts.trackText, {
      n: track.count,
      metres: number.format(Math.round(track.reach * 2)),
      lat: number.format(track.lat),
      long: number.format(track.long),
    });
    const [cx, cy] = place(now).split(",");
    const bar = track.bar * scale;
    const length =
      track.bar >= 1000
        ? `${number.format(track.bar / 1000)} ${texts.kilometres}`
        : `${number.format(track.bar)} ${texts.metres}`;
    return (
      <>
        <svg
          class="track"
          viewBox={`0 0 ${SIZE} ${SIZE + MARGIN / 2}`}
          role="img"
          aria-label={words}
        >
          <polyline class="path" points={points.map(place).join(" ")} />
          <circle class="here" cx={cx} cy={cy} r="6" />
          <path class="north" d="M288 40v-26m-6 8 6-9 6 9" />
          <text x="288" y="54" text-anchor="middle">
            {texts.north}
          </text>
          <path class="north" d={`M12 299v6h${bar.toFixed(1)}v-6`} />
          <text x={12 + bar / 2} y="295" text-anchor="middle">
            {length}
          </text>
        </svg>
        <p class="help">{words}</p>
      </>
    );
  }
}
