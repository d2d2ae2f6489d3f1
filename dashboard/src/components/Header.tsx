import type { ComponentChildren } from "preact";
import { isLanguage, LANGUAGE_NAMES } from "../text";
import type { SetView, Theme, View } from "../view";
import type { Status } from "../data/agent";
import { useWords } from "./context";

interface Props {
  name: string;
  health: Status["health"] | null;
  view: View;
  setView: SetView;
  children?: ComponentChildren;
}

export function Header({ name, health, view, setView, children }: Props) {
  const { texts } = useWords();
  const words = {
    ok: texts.healthOk,
    degraded: texts.healthDegraded,
    failed: texts.healthFailed,
  };
  return (
    <header>
      <a class="skip" href="#main">
        {texts.skip}
      </a>
      <h1>
        <img src="/icon.svg" alt="" width="32" height="32" /> {name}
      </h1>
      {health && <p class={`badge ${health}`}>{words[health]}</p>}
      {children}
      <div class="choices">
        <label>
          {texts.language}{" "}
          <select
            value={view.language}
            onChange={(event) => {
              const language = event.currentTarget.value;
              if (isLanguage(language)) setView({ language });
            }}
          >
            {Object.entries(LANGUAGE_NAMES).map(([code, own]) => (
              <option key={code} value={code} lang={code}>
                {own}
              </option>
            ))}
          </select>
        </label>
        <label>
          {texts.theme}{" "}
          <select
            value={view.theme}
            onChange={(event) => {
              setView({ theme: event.currentTarget.value as Theme });
            }}
          >
            <option value="auto">{texts.auto}</option>
            <option value="light">{texts.light}</option>
            <option value="dark">{texts.dark}</option>
          </select>
        </label>
      </div>
    </header>
  );
}
