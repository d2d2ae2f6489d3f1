import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import { unit, written } from "../data/fields";
import type { Column, Span } from "../data/series";
import { clockTime, dayMonth, zoneOffsetMs } from "../time";
import { fill } from "../text";
import { useWords } from "./context";
import { touchPlugin } from "./touch";

const HEIGHT = 190;

/** What is drawn of one device; low and high are the band around it, where values are means. */
export interface Line {
  device: string;
  values: Column;
  band?: { low: Column; high: Column };
}

interface Props {
  field: string;
  times: number[];
  lines: readonly Line[];
  span: Span;
  theme: string;
  /** A span that was chosen; null is back to live. */
  onSpan: (span: Span | null) => void;
}

/** How the lines of several devices differ, beside their colours. */
export const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

/** One field over time, with a cursor for the mouse, a finger and the keyboard. */
export function Chart({ field, times, lines, span, theme, onSpan }: Props) {
  const { texts, language, zone } = useWords();
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const choose = useRef(onSpan);
  choose.current = onSpan;
  const [reading, setReading] = useState("");
  const cursor = useRef<number | null>(null);
  const zoneName = zone.name;
  const shape = lines.map((line) => line.band !== undefined).join();
  const names = lines.map((line) => line.device);

  useEffect(() => {
    const element = host.current;
    if (element === null) return;
    const colour = (name: string): string =>
      getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const zone = { name: zoneName, language };
    const tickText = (tick: number, ticks: number[]): string => {
      const days = (ticks.at(-1) ?? 0) - (ticks[0] ?? 0) > 2 * 86_400;
      return days ? dayMonth(tick, zone) : clockTime(tick, zone).slice(0, 5);
    };
    const axis: uPlot.Axis = {
      stroke: colour("--text"),
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { stroke: colour("--line"), width: 1 },
      font: "12px system-ui, sans-serif",
    };
    const banded = shape === "" ? [] : shape.split(",").map((has) => has === "true");
    const series: uPlot.Series[] = [{}];
    const bands: uPlot.Band[] = [];
    banded.forEach((has, i) => {
      const stroke = colour(`--line-${(i % DASHES.length) + 1}`);
      const points = { show: (u: uPlot) => u.data[0].length < 40, size: 5 };
      const dash = DASHES[i % DASHES.length] ?? [];
      series.push({ stroke, dash, width: 2, spanGaps: false, points });
      if (!has) return;
      const edge = { stroke: "transparent", points: { show: false }, spanGaps: false };
      series.push({ ...edge }, { ...edge });
      bands.push({ series: [series.length - 1, series.length - 2], fill: `${stroke}33` });
    });
    const made = new uPlot(
      {
        width: Math.max(240, element.clientWidth),
        height: HEIGHT,
        legend: { show: false },
        cursor: { drag: { x: true, y: false, setScale: false }, sync: { key: "charts" } },
        scales: { x: { time: true, auto: false } },
        tzDate: (seconds) => {
          // uPlot reads a Date by local getters; this one says the station's wall clock there.
          const utc = new Date(seconds * 1000 + zoneOffsetMs(seconds, zone));
          return new Date(utc.getTime() + utc.getTimezoneOffset() * 60_000);
        },
        axes: [
          { ...axis, values: (_, ticks) => ticks.map((tick) => tickText(tick, ticks)) },
          { ...axis, size: 64, values: (_, ticks) => ticks.map((tick) => written(tick, language)) },
        ],
        series,
        bands,
        plugins: [
          touchPlugin((chosen) => {
            choose.current(chosen);
          }),
        ],
        hooks: {
          setSelect: [
            (u) => {
              if (u.select.width < 4) return;
              const from = u.posToVal(u.select.left, "x");
              const to = u.posToVal(u.select.left + u.select.width, "x");
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
              choose.current({ from, to });
            },
          ],
        },
      },
      series.map(() => []) as unknown as uPlot.AlignedData,
      element,
    );
    plot.current = made;
    const resized = new ResizeObserver(() => {
      made.setSize({ width: Math.max(240, element.clientWidth), height: HEIGHT });
    });
    resized.observe(element);
    return () => {
      resized.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [zoneName, language, theme, shape]);

  useEffect(() => {
    const made = plot.current;
    if (made === null) return;
    made.batch(() => {
      const columns = lines.flatMap(({ values, band }) =>
        band === undefined ? [values] : [values, band.low, band.high],
      );
      made.setData([times, ...columns], false);
      made.setScale("x", { min: span.from, max: span.to });
    });
  }, [times, lines, span.from, span.to, zoneName, language, theme, shape]);

  function read(index: number): void {
    const made = plot.current;
    const time = times[index];
    if (made === null || time === undefined) return;
    cursor.current = index;
    made.setCursor({
      left: made.valToPos(time, "x"),
      top: made.valToPos(lines[0]?.values[index] ?? 0, "y"),
    });
    const read = lines.map(({ device, values }) => {
      const value = `${written(values[index] ?? undefined, language)} ${unit(field)}`;
      return lines.length > 1 ? `${device} ${value}` : value;
    });
    setReading(`${clockTime(time, zone)}: ${read.join(", ")}`);
  }

  function onKeyDown(event: KeyboardEvent): void {
    const width = span.to - span.from;
    const middle = (span.from + span.to) / 2;
    const shift = (by: number): void => {
      onSpan({ from: span.from + by * width, to: span.to + by * width });
    };
    const zoom = (factor: number): void => {
      onSpan({ from: middle - (width * factor) / 2, to: middle + (width * factor) / 2 });
    };
    const isGap = (index: number): boolean =>
      lines.every(({ values }) => (values[index] ?? null) === null);
    const step = (by: number): void => {
      let index = cursor.current ?? times.length;
      do index += by;
      while (index > 0 && index < times.length - 1 && isGap(index));
      read(Math.min(times.length - 1, Math.max(0, index)));
    };
    const actions: Record<string, () => void> = {
      ArrowLeft: () => {
        step(event.shiftKey ? -10 : -1);
      },
      ArrowRight: () => {
        step(event.shiftKey ? 10 : 1);
      },
      Home: () => {
        read(0);
      },
      End: () => {
        read(times.length - 1);
      },
      "+": () => {
        zoom(0.5);
      },
      "=": () => {
        zoom(0.5);
      },
      "-": () => {
        zoom(2);
      },
      PageUp: () => {
        shift(-0.5);
      },
      PageDown: () => {
        shift(0.5);
      },
      Escape: () => {
        onSpan(null);
      },
    };
    const action = actions[event.key];
    if (action === undefined || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    action();
  }

  const title = fill(texts.fieldOf, { field, device: names.join(", ") });
  return (
    <figure class="chart" data-field={field}>
      <figcaption>
        {field} <small>{unit(field)}</small> <output class="reading">{reading}</output>
      </figcaption>
      <div
        ref={host}
        class="plot"
        tabIndex={0}
        role="application"
        aria-label={title}
        aria-describedby="chart-help"
        onKeyDown={onKeyDown}
        onDblClick={() => {
          onSpan(null);
        }}
      />
    </figure>
  );
}
