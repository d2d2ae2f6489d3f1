import type { Span } from "../data/series";
import { fill } from "../text";
import { RANGE_S, useShade, type Range, type SetView, type View } from "../view";
import { Chart, DASHES, type Line } from "./Chart";
import { SignButton } from "./SignButton";
import { useWords } from "./context";

/** What the charts draw: one x for all, and the lines of each field. */
export interface Drawn {
  times: number[];
  lines: Map<string, readonly Line[]>;
}

interface Props {
  drawn: Drawn;
  span: Span;
  /** 0 to 1 while older records are loaded, else null. */
  progress: number | null;
  view: View;
  setView: SetView;
}

const RANGES: readonly Range[] = ["15m", "24h", "all"];

/** The span that a view shows: what was zoomed to, or the range up to now; first is the oldest record's time. */
export function shownSpan(view: View, first: number | undefined, now: number): Span {
  if (view.zoom !== null) return view.zoom;
  const all = first === undefined ? now - RANGE_S["15m"] : Math.min(first, now - 60);
  return { from: view.range === "all" ? all : now - RANGE_S[view.range], to: now };
}

export function Charts({ drawn, span, progress, view, setView }: Props) {
  const { texts } = useWords();
  const shade = useShade(view.theme);
  const [lines] = drawn.lines.values();
  const devices = (lines ?? []).map(({ device }) => device);
  const width = span.to - span.from;
  const show = (from: number, to: number): void => {
    if (to - from > 5) setView({ zoom: { from, to } });
  };
  const middle = (span.from + span.to) / 2;
  return (
    <section aria-labelledby="charts-title">
      <h2 id="charts-title">{texts.charts}</h2>
      <div class="tools" role="group" aria-label={texts.range}>
        {RANGES.map((range) => (
          <button
            key={range}
            type="button"
            aria-pressed={view.range === range && view.zoom === null}
            onClick={() => {
              setView({ range, zoom: null });
            }}
          >
            {texts[`r${range}`]}
          </button>
        ))}
        <span class="space" />
        <SignButton
          label={texts.earlier}
          sign="←"
          onPress={() => {
            show(span.from - width / 2, span.to - width / 2);
          }}
        />
        <SignButton
          label={texts.later}
          sign="→"
          onPress={() => {
            show(span.from + width / 2, span.to + width / 2);
          }}
        />
        <SignButton
          label={texts.zoomIn}
          sign="+"
          onPress={() => {
            show(middle - width / 4, middle + width / 4);
          }}
        />
        <SignButton
          label={texts.zoomOut}
          sign="−"
          onPress={() => {
            show(middle - width, middle + width);
          }}
        />
        <button
          type="button"
          disabled={view.zoom === null}
          onClick={() => {
            setView({ zoom: null });
          }}
        >
          {texts.live}
        </button>
      </div>
      <p id="chart-help" class="help">
        {texts.chartHelp}
      </p>
      {progress !== null && (
        <p class="help">{fill(texts.older, { percent: Math.round(progress * 100) })}</p>
      )}
      {!drawn.times.some((time) => time >= span.from && time <= span.to) && <p>{texts.noData}</p>}
      {devices.length > 1 && (
        <ul class="legend">
          {devices.map((device, i) => (
            <li key={device}>
              <svg viewBox="0 0 40 10" width="40" height="10" aria-hidden="true">
                <path
                  class={`line-${(i % DASHES.length) + 1}`}
                  d="M0 5h40"
                  stroke-dasharray={DASHES[i % DASHES.length]?.join(" ")}
                />
              </svg>{" "}
              {device}
            </li>
          ))}
        </ul>
      )}
      <div class="charts">
        {[...drawn.lines].map(([field, lines]) => (
          <Chart
            key={field}
            field={field}
            times={drawn.times}
            lines={lines}
            span={span}
            theme={shade}
            onSpan={(chosen) => {
              if (chosen === null) setView({ zoom: null });
              else show(chosen.from, chosen.to);
            }}
          />
        ))}
      </div>
    </section>
  );
}
