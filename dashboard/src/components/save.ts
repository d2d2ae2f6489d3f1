/** Hands a text to the reader as a file. */
export function save(text: string, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => {
    URL.revokeObjectURL(link.href);
  }, 60_000);
}

/** A moment as part of a file's name. */
export const stamp = (seconds: number): string =>
  new Date(seconds * 1000).toISOString().slice(0, 19).replaceAll(":", "");
