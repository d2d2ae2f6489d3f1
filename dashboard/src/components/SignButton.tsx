interface Props {
  /** Read aloud, and shown where a pointer rests. */
  label: string;
  /** What is on it, such as +. */
  sign: string;
  onPress: () => void;
}

/** A button with a sign in place of a word. */
export function SignButton({ label, sign, onPress }: Props) {
  return (
    <button type="button" aria-label={label} title={label} onClick={onPress}>
      {sign}
    </button>
  );
}
