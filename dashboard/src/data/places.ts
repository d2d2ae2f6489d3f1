/** Stations on the map of the world: degrees to places on a plane, and near ones as one. */

export interface Place {
  id: string;
  lat: number;
  long: number;
  silent: boolean;
}

export interface Cluster {
  x: number;
  y: number;
  ids: string[];
  silent: number;
}

/** A part of the plane, 360 wide and 180 high, with the north on top. */
export interface Box {
  x: number;
  y: number;
  width: number;
  height: number;
}

export const WORLD: Box = { x: 0, y: 0, width: 360, height: 180 };
const SMALLEST = 4;
/** So that a coast is seen, and whoever looks knows where that is. */
const NEAREST = 75;
/** So many places side by side can be told apart and hit with a finger. */
const CELLS = 40;

const onPlane = ({ lat, long }: Place): { x: number; y: number } => ({
  x: long + 180,
  y: 90 - lat,
});

export function clusters(places: readonly Place[], box: Box): Cluster[] {
  const cell = box.width / CELLS;
  const found = new Map<string, Cluster>();
  for (const place of places) {
    const { x, y } = onPlane(place);
    const key = `${Math.floor(x / cell)} ${Math.floor(y / cell)}`;
    const cluster = found.get(key) ?? { x: 0, y: 0, ids: [], silent: 0 };
    const n = cluster.ids.push(place.id);
    cluster.x += (x - cluster.x) / n;
    cluster.y += (y - cluster.y) / n;
    cluster.silent += place.silent ? 1 : 0;
    found.set(key, cluster);
  }
  return [...found.values()];
}

/** The part of the world that all places are in, with some room around. */
export function around(places: readonly Place[]): Box {
  if (places.length === 0) return WORLD;
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const place of places) {
    const { x, y } = onPlane(place);
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  const width = Math.max((right - left) * 1.3, (bottom - top) * 2.6, NEAREST);
  return fitted((left + right) / 2, (top + bottom) / 2, width);
}

/** A box so wide around a point, within the world. */
export function fitted(x: number, y: number, wished: number): Box {
  const width = Math.min(360, Math.max(SMALLEST, wished));
  const height = width / 2;
  return {
    x: Math.min(360 - width, Math.max(0, x - width / 2)),
    y: Math.min(180 - height, Math.max(0, y - height / 2)),
    width,
    height,
  };
}
