/** What every component needs to write a text, a number or a time. */

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { TEXTS, type Language, type Texts } from "../text";
import type { Zone } from "../time";

export interface Words {
  texts: Texts;
  language: Language;
  zone: Zone;
}

export const WordsContext = createContext<Words>({
  texts: TEXTS.en,
  language: "en",
  zone: { name: "UTC", language: "en" },
});

export const useWords = (): Words => useContext(WordsContext);
