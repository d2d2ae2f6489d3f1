import { standsAt, type Link } from "../data/chain";
import { fill } from "../text";
import { span } from "../time";
import { useWords } from "./context";

interface Props {
  chain: Link[];
  /** Seconds since the newest record, null where there is none. */
  age: number | null;
}

/** The way of a package as a picture; under it one sentence about where it stands still. */
export function Chain({ chain, age }: Props) {
  const { texts } = useWords();
  const at = standsAt(chain);
  return (
    <section aria-labelledby="chain-title">
      <h2 id="chain-title">{texts.chain}</h2>
      <ol class="chain">
        {chain.map((link) => (
          <li key={link.stage} class={link.state} data-stage={link.stage}>
            <strong>{texts[link.stage]}</strong>
            <span>{texts[link.state]}</span>
            {link.pending > 0 && <small>{fill(texts.waiting, { n: link.pending })}</small>}
            {link.pending > 0 && link.oldest >= 1 && (
              <small>{fill(texts.oldest, { span: span(link.oldest, texts) })}</small>
            )}
          </li>
        ))}
      </ol>
      <p class="sentence" role="status">
        {at === undefined ? (
          chain.every((link) => link.state === "unknown") ? null : (
            texts.flows
          )
        ) : (
          <>
            {fill(texts.standsHere, { stage: texts[at.stage], state: texts[at.state] })} {why(at)}
          </>
        )}
      </p>
    </section>
  );

  function why(link: Link) {
    if (link.stage === "device")
      return age === null
        ? texts.deviceNever
        : fill(texts.deviceSilent, { span: span(age, texts) });
    if (link.state === "held") return fill(texts.heldBack, { n: link.pending });
    if (link.stage === "spool") return fill(texts.spoolFull, { n: link.pending });
    // The agent's own sentence, in its language.
    return <span lang="en">{link.detail}</span>;
  }
}
