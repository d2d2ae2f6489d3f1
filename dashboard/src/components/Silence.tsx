import type { Station } from "../data/stations";
import { whySilent } from "../data/silent";
import { fill } from "../text";
import { span } from "../time";
import { useWords } from "./context";

/** Why a station is silent, in one sentence. */
export function Silence({ station, now }: { station: Station; now: number }) {
  const { texts } = useWords();
  const { key, age, detail } = whySilent(station.report, now);
  const silence =
    station.age === null
      ? texts.deviceNever
      : fill(texts.deviceSilent, { span: span(station.age, texts) });
  return (
    <>
      {silence} {fill(texts[key], { span: span(age, texts), detail })}
    </>
  );
}
