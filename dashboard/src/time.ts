/** Times in the station's zone, and spans in words. */

import type { Language, Texts } from "./text";

export interface Zone {
  /** Such as Asia/Almaty. */
  name: string;
  language: Language;
}

function formatter(zone: Zone, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const all = { ...options, hourCycle: "h23" } as const;
  try {
    return new Intl.DateTimeFormat(zone.language, { ...all, timeZone: zone.name });
  } catch {
    // A browser that does not know the zone.
    return new Intl.DateTimeFormat(zone.language, { ...all, timeZone: "UTC" });
  }
}

export function clockTime(seconds: number, zone: Zone): string {
  return formatter(zone, { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(
    seconds * 1000,
  );
}

export function dayMonth(seconds: number, zone: Zone): string {
  return formatter(zone, { day: "2-digit", month: "2-digit" }).format(seconds * 1000);
}

export function dateTime(seconds: number, zone: Zone): string {
  return formatter(zone, {
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
  }).format(seconds * 1000);
}

/** Milliseconds that the zone's wall clock is ahead of UTC at a moment. */
export function zoneOffsetMs(seconds: number, zone: Zone): number {
  const parts = formatter(
    { name: zone.name, language: "en" },
    {
      year: "numeric",
      month: "numeric",
      day: "numeric",
      hour: "numeric",
      minute: "numeric",
      second: "numeric",
    },
  ).formatToParts(seconds * 1000);
  const part = (type: string): number =>
    Number(parts.find((one) => one.type === type)?.value ?? "0");
  const wall = Date.UTC(
    part("year"),
    part("month") - 1,
    part("day"),
    part("hour"),
    part("minute"),
    part("second"),
  );
  return wall - Math.floor(seconds) * 1000;
}

/** A span in one unit: 12 s, 5 min, 3 h, 2 d. */
export function span(seconds: number, texts: Texts): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 120) return `${s} ${texts.seconds}`;
  if (s < 7200) return `${Math.round(s / 60)} ${texts.minutes}`;
  if (s < 172_800) return `${Math.round(s / 3600)} ${texts.hours}`;
  return `${Math.round(s / 86_400)} ${texts.days}`;
}
