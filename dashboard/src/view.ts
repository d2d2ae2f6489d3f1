/** What is looked at, kept in the address, so that a view can be sent to somebody. */

import { useEffect, useLayoutEffect, useState } from "preact/hooks";
import { isLanguage, type Language } from "./text";

export type Range = "15m" | "24h" | "all";
export type Theme = "auto" | "light" | "dark";

export interface View {
  range: Range;
  /** The device that is shown; "" is the first by name. On the network page several with commas between. */
  device: string;
  language: Language;
  theme: Theme;
  /** The span that was zoomed to, seconds UTC. */
  zoom: { from: number; to: number } | null;
  /** The network page: what is searched for, the order and the page of the table, the wall view. */
  search: string;
  sort: string;
  page: number;
  wall: boolean;
}

const RANGES: readonly string[] = ["15m", "24h", "all"];
const THEMES: readonly string[] = ["auto", "light", "dark"];

export const RANGE_S: Record<Range, number> = { "15m": 900, "24h": 86_400, all: Infinity };

export function parseView(search: string, languages: readonly string[]): View {
  const query = new URLSearchParams(search);
  const range = query.get("range") ?? "";
  const theme = query.get("theme") ?? "";
  const from = Number(query.get("from") ?? NaN);
  const to = Number(query.get("to") ?? NaN);
  const wished = [query.get("lang") ?? "", ...languages].map((name) => name.slice(0, 2));
  return {
    range: RANGES.includes(range) ? (range as Range) : "15m",
    theme: THEMES.includes(theme) ? (theme as Theme) : "auto",
    device: query.get("device") ?? "",
    language: wished.find(isLanguage) ?? "en",
    zoom: from < to ? { from, to } : null,
    search: query.get("q") ?? "",
    sort: query.get("sort") ?? "",
    page: Math.max(0, Math.floor(Number(query.get("page") ?? 1) - 1) || 0),
    wall: query.get("wall") === "1",
  };
}

/** The address of a view, with what the browser would choose left out. */
export function writeView(view: View, languages: readonly string[]): string {
  const query = new URLSearchParams();
  const usual = parseView("", languages);
  if (view.range !== usual.range) query.set("range", view.range);
  if (view.device !== "") query.set("device", view.device);
  if (view.language !== usual.language) query.set("lang", view.language);
  if (view.theme !== usual.theme) query.set("theme", view.theme);
  if (view.zoom !== null) {
    query.set("from", view.zoom.from.toFixed(0));
    query.set("to", view.zoom.to.toFixed(0));
  }
  if (view.search !== "") query.set("q", view.search);
  if (view.sort !== "") query.set("sort", view.sort);
  if (view.page > 0) query.set("page", String(view.page + 1));
  if (view.wall) query.set("wall", "1");
  const text = query.toString();
  return text === "" ? "" : `?${text}`;
}

const darkness = (): MediaQueryList => matchMedia("(prefers-color-scheme: dark)");

/** What a theme is now: "auto" follows the system. */
export function useShade(theme: Theme): "light" | "dark" {
  const [dark, set] = useState(() => darkness().matches);
  useEffect(() => {
    const query = darkness();
    const follow = (): void => {
      set(query.matches);
    };
    query.addEventListener("change", follow);
    return () => {
      query.removeEventListener("change", follow);
    };
  }, []);
  if (theme !== "auto") return theme;
  return dark ? "dark" : "light";
}

export type SetView = (change: Partial<View>) => void;

export function useView(): [View, SetView] {
  const [view, set] = useState(() => parseView(location.search, navigator.languages));
  useEffect(() => {
    const back = (): void => {
      set(parseView(location.search, navigator.languages));
    };
    addEventListener("popstate", back);
    return () => {
      removeEventListener("popstate", back);
    };
  }, []);
  const shade = useShade(view.theme);
  useLayoutEffect(() => {
    document.documentElement.dataset["theme"] = shade;
  }, [shade]);
  useEffect(() => {
    history.replaceState(null, "", location.pathname + writeView(view, navigator.languages));
    document.documentElement.lang = view.language;
  }, [view]);
  return [
    view,
    (change) => {
      set((now) => ({ ...now, ...change }));
    },
  ];
}
