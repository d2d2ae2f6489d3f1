/** A track in metres around its middle: no map, no borders, right at the scale of a school. */

import type { TelemetryRecord } from "./agent";
import { valueOf } from "./fields";

export interface Point {
  /** Metres east and north of the middle. */
  x: number;
  y: number;
}

export interface Track {
  points: Point[];
  /** Positions in all; at most MOST_POINTS of them are drawn. */
  count: number;
  /** Half of the side of the square that holds all points, in metres. */
  reach: number;
  /** A round length for the scale bar, in metres. */
  bar: number;
  /** Degrees of the newest point. */
  lat: number;
  long: number;
}

/** More are not seen, and slow the page down. */
const MOST_POINTS = 2000;
const METRES_PER_DEGREE = 111_320;

export function makeTrack(records: readonly TelemetryRecord[]): Track | null {
  const places: { lat: number; long: number }[] = [];
  for (const record of records) {
    const lat = valueOf(record, "lat");
    const long = valueOf(record, "long");
    if (typeof lat !== "number" || typeof long !== "number") continue;
    // 0/0 is what a receiver without a fix says.
    if (Math.abs(lat) > 90 || Math.abs(long) > 180 || (lat === 0 && long === 0)) continue;
    places.push({ lat, long });
  }
  const last = places.at(-1);
  if (last === undefined) return null;
  const middle = (values: number[]): number => {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    return (low + high) / 2;
  };
  const lat0 = middle(places.map((place) => place.lat));
  const long0 = middle(places.map((place) => place.long));
  const east = METRES_PER_DEGREE * Math.cos((lat0 * Math.PI) / 180);
  const every = Math.ceil(places.length / MOST_POINTS);
  const drawn = places.filter((place, i) => i % every === 0 || place === last);
  const points = drawn.map((place) => ({
    x: (place.long - long0) * east,
    y: (place.lat - lat0) * METRES_PER_DEGREE,
  }));
  const reach = points.reduce(
    (most, point) => Math.max(most, Math.abs(point.x), Math.abs(point.y)),
    10,
  );
  return {
    points,
    count: places.length,
    reach,
    bar: roundLength(reach / 2),
    lat: last.lat,
    long: last.long,
  };
}

/** The largest of 1, 2, 5 × 10ⁿ that is not above a length. */
export function roundLength(length: number): number {
  const power = 10 ** Math.floor(Math.log10(length));
  for (const factor of [5, 2]) if (factor * power <= length) return factor * power;
  return power;
}
