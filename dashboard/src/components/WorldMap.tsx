import { useEffect, useMemo, useState } from "preact/hooks";
import { around, clusters, fitted, WORLD, type Box, type Place } from "../data/places";
import { fill } from "../text";
import { SignButton } from "./SignButton";
import { useWords } from "./context";

interface Props {
  places: Place[];
  chosen: readonly string[];
  onChoose: (id: string) => void;
}

/** Where the stations are: the land of the world, and a dot for each place with its number of stations. */
export function WorldMap({ places, chosen, onChoose }: Props) {
  const { texts } = useWords();
  const [land, setLand] = useState("");
  const [box, setBox] = useState<Box | null>(null);
  const shown = useMemo(() => box ?? around(places), [box, places]);
  const dots = useMemo(() => clusters(places, shown), [places, shown]);
  useEffect(() => {
    void import("virtual:world").then((world) => {
      setLand(world.default);
    });
  }, []);
  const silent = places.filter((place) => place.silent).length;
  const size = shown.width / 90;
  const middle = { x: shown.x + shown.width / 2, y: shown.y + shown.height / 2 };
  const words = fill(texts.mapText, { n: places.length, silent });
  return (
    <section aria-labelledby="map-title">
      <h2 id="map-title">{texts.map}</h2>
      <div class="tools" role="group" aria-label={texts.map}>
        <SignButton
          label={texts.zoomIn}
          sign="+"
          onPress={() => {
            setBox(fitted(middle.x, middle.y, shown.width / 2));
          }}
        />
        <SignButton
          label={texts.zoomOut}
          sign="−"
          onPress={() => {
            setBox(fitted(middle.x, middle.y, shown.width * 2));
          }}
        />
        <button
          type="button"
          onClick={() => {
            setBox(null);
          }}
        >
          {texts.fit}
        </button>
        <button
          type="button"
          onClick={() => {
            setBox(WORLD);
          }}
        >
          {texts.world}
        </button>
      </div>
      <svg
        class="world"
        viewBox={`${shown.x} ${shown.y} ${shown.width} ${shown.height}`}
        role="img"
        aria-label={words}
      >
        <path class="land" d={land} stroke-width={size / 8} />
        {dots.map(({ x, y, ids, silent }) => {
          const radius = size * (0.8 + Math.min(2, Math.log10(ids.length)));
          return (
            <g
              key={ids[0]}
              class={silent === ids.length ? "silent" : silent > 0 ? "some" : "live"}
              onClick={() => {
                if (ids.length === 1 && ids[0] !== undefined) onChoose(ids[0]);
                else setBox(fitted(x, y, shown.width / 3));
              }}
            >
              <title>
                {ids.slice(0, 5).join(", ")}
                {ids.length > 5 && ` … (${ids.length})`}
              </title>
              <circle
                cx={x}
                cy={y}
                r={radius}
                stroke-width={size / (ids.some((id) => chosen.includes(id)) ? 2 : 5)}
              />
              {ids.length > 1 && (
                <text x={x} y={y + radius * 0.35} font-size={radius} text-anchor="middle">
                  {ids.length}
                </text>
              )}
            </g>
          );
        })}
      </svg>
      <p class="help">{words}</p>
    </section>
  );
}
