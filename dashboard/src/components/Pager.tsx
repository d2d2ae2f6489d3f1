import { fill } from "../text";
import { useWords } from "./context";

interface Props {
  /** The page that is shown, from 0. */
  at: number;
  pages: number;
  /** On the buttons of the page before and of the page after. */
  before: string;
  after: string;
  onPage: (page: number) => void;
}

/** Leafs through the pages of a table. */
export function Pager({ at, pages, before, after, onPage }: Props) {
  const { texts } = useWords();
  return (
    <p class="tools">
      <button
        type="button"
        disabled={at === 0}
        onClick={() => {
          onPage(at - 1);
        }}
      >
        {before}
      </button>
      <button
        type="button"
        disabled={at >= pages - 1}
        onClick={() => {
          onPage(at + 1);
        }}
      >
        {after}
      </button>
      <span>{fill(texts.page, { n: at + 1, of: pages })}</span>
    </p>
  );
}
