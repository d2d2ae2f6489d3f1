import type uPlot from "uplot";
import type { Span } from "../data/series";

/** One finger pans, two zoom; up and down still scroll the page (touch-action: pan-y). */
export function touchPlugin(choose: (span: Span) => void): uPlot.Plugin {
  return {
    hooks: {
      ready: [
        (u) => {
          const fingers = new Map<number, number>();
          let begun: { span: Span; at: number[] } | null = null;
          const begin = (): void => {
            const { min, max } = u.scales["x"] ?? {};
            begun =
              min == null || max == null || fingers.size === 0
                ? null
                : { span: { from: min, to: max }, at: [...fingers.values()] };
          };
          u.over.addEventListener("pointerdown", (event) => {
            if (event.pointerType !== "touch") return;
            fingers.set(event.pointerId, event.clientX);
            begin();
          });
          u.over.addEventListener("pointermove", (event) => {
            if (!fingers.has(event.pointerId) || begun === null) return;
            fingers.set(event.pointerId, event.clientX);
            const now = [...fingers.values()];
            const moved = moveSpan(begun.span, begun.at, now, u.over.clientWidth);
            if (moved !== null) choose(moved);
          });
          for (const end of ["pointerup", "pointercancel"] as const)
            u.over.addEventListener(end, (event) => {
              fingers.delete(event.pointerId);
              begin();
            });
        },
      ],
    },
  };
}

/** The span after fingers moved from some places to others on a plot so many pixels wide. */
export function moveSpan(
  { from, to }: Span,
  before: readonly number[],
  after: readonly number[],
  width: number,
): Span | null {
  const [a0, b0] = before;
  const [a1, b1] = after;
  if (a0 === undefined || a1 === undefined || width <= 0) return null;
  const scale = (to - from) / width;
  if (b0 === undefined || b1 === undefined) {
    const by = (a0 - a1) * scale;
    return Math.abs(a0 - a1) < 3 ? null : { from: from + by, to: to + by };
  }
  const factor = Math.max(20, Math.abs(a0 - b0)) / Math.max(20, Math.abs(a1 - b1));
  const middle = (from + to) / 2 + ((a0 + b0 - a1 - b1) / 2) * scale;
  const half = ((to - from) / 2) * factor;
  return { from: middle - half, to: middle + half };
}
