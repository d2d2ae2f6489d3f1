import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { feature } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";
import { defineConfig, type Plugin } from "vite";

/** `virtual:world`: the land of the world as the path of an SVG, 360 wide, the north on top. */
function world(): Plugin {
  return {
    name: "world",
    resolveId: (id) => (id === "virtual:world" ? "\0world" : null),
    load: (id) => (id === "\0world" ? `export default ${JSON.stringify(landPath())}` : null),
  };
}

function landPath(): string {
  const file = createRequire(import.meta.url).resolve("world-atlas/land-110m.json");
  const atlas = JSON.parse(readFileSync(file, "utf8")) as Topology<{ land: GeometryCollection }>;
  const rings = feature(atlas, atlas.objects.land).features.flatMap(({ geometry }) =>
    geometry.type === "MultiPolygon"
      ? geometry.coordinates.flat()
      : geometry.type === "Polygon"
        ? geometry.coordinates
        : [],
  );
  return rings
    .flatMap((ring) => onBothSides(unwrapped(ring)))
    .map((ring) => {
      const points = ring.map(([long = 0, lat = 0]) => [
        Math.round((long + 180) * 10),
        Math.round((90 - lat) * 10),
      ]);
      let before = [0, 0];
      const steps = points.map((point) => {
        const step = point.map((value, i) => (value - (before[i] ?? 0)) / 10);
        before = point;
        return step.join(" ");
      });
      return `M${steps[0] ?? ""}l${steps.slice(1).join(" ")}z`;
    })
    .join("");
}

/** A ring that goes on beyond 180° instead of jumping to the other edge of the map. */
function unwrapped(ring: number[][]): number[][] {
  let turn = 0;
  const points = ring.map(([long = 0, lat = 0], i) => {
    const step = long - (ring[i - 1]?.[0] ?? long);
    if (Math.abs(step) > 180) turn -= 360 * Math.sign(step);
    return [long + turn, lat];
  });
  // Antarctica goes round the pole, and is closed below the map's edge.
  if (turn !== 0) points.push([points.at(-1)?.[0] ?? 0, -91], [points[0]?.[0] ?? 0, -91]);
  return points;
}

/** The ring, and once more where it comes in from the other edge. */
function onBothSides(ring: number[][]): number[][][] {
  const longs = ring.map(([long = 0]) => long);
  const shifts = [0];
  if (Math.max(...longs) > 180) shifts.push(-360);
  if (Math.min(...longs) < -180) shifts.push(360);
  return shifts.map((shift) => ring.map(([long = 0, lat = 0]) => [long + shift, lat]));
}

// No inline scripts, styles or data: the pages are served with a strict Content-Security-Policy.
export default defineConfig({
  plugins: [world()],
  build: {
    outDir: "../build/dashboard",
    emptyOutDir: true,
    target: "es2021",
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rollupOptions: { input: { station: "index.html", network: "network.html" } },
  },
});
