/** The page's words in its languages. What the agent says is shown as the agent says it. */

import { en } from "./en";
import { kk } from "./kk";
import { ru } from "./ru";

export type Texts = Record<keyof typeof en, string>;

export const TEXTS = { en, ru, kk };
export type Language = keyof typeof TEXTS;
export const LANGUAGE_NAMES: Record<Language, string> = {
  en: "English",
  ru: "Русский",
  kk: "Қазақша",
};

export const isLanguage = (name: string): name is Language => Object.hasOwn(TEXTS, name);

/** A text with its {places} filled in. */
export function fill(text: string, places: Record<string, string | number>): string {
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => String(places[name] ?? whole));
}
