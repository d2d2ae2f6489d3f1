import { useState } from "preact/hooks";
import { basic } from "../data/hub";
import { useWords } from "./context";

interface Props {
  /** Whether a login was tried, and is wrong. */
  wrong: boolean;
  onLogin: (authorization: string) => void;
}

/** Asks for a reader's account; the operator of the hub gives it out. */
export function Login({ wrong, onLogin }: Props) {
  const { texts } = useWords();
  const [name, setName] = useState("");
  const [password, setPassword] = useState("");
  return (
    <section aria-labelledby="login-title">
      <h2 id="login-title">{texts.login}</h2>
      <p>{texts.loginHelp}</p>
      {wrong && (
        <p class="alarm" role="alert">
          {texts.loginWrong}
        </p>
      )}
      <form
        class="login"
        onSubmit={(event) => {
          event.preventDefault();
          onLogin(basic(name, password));
        }}
      >
        <label>
          {texts.account}
          <input
            value={name}
            autocomplete="username"
            required
            onInput={(event) => {
              setName(event.currentTarget.value);
            }}
          />
        </label>
        <label>
          {texts.password}
          <input
            type="password"
            value={password}
            autocomplete="current-password"
            required
            onInput={(event) => {
              setPassword(event.currentTarget.value);
            }}
          />
        </label>
        <button type="submit">{texts.enter}</button>
      </form>
    </section>
  );
}
