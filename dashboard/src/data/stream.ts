/** Reads server-sent events with fetch: EventSource can't send a password. */

import type { TelemetryRecord } from "./agent";
import type { Hub } from "./hub";

export interface Event {
  id: string;
  event: string;
  data: string;
}

/** Cuts a text that comes in pieces into events. */
export class EventParser {
  private rest = "";

  push(text: string): Event[] {
    const found: Event[] = [];
    const blocks = (this.rest + text).split("\n\n");
    this.rest = blocks.pop() ?? "";
    for (const block of blocks) {
      const event: Event = { id: "", event: "message", data: "" };
      for (const line of block.split("\n")) {
        const colon = line.indexOf(":");
        const name = line.slice(0, colon);
        if (name === "id" || name === "event" || name === "data")
          event[name] = line.slice(colon + 1).trimStart();
      }
      if (event.data !== "") found.push(event);
    }
    return found;
  }
}

const SILENCE_MS = 45_000;
const AGAIN_MS = [1000, 2000, 5000, 10_000, 30_000];

/** New records of some collections, until it is stopped; it comes back by itself and misses nothing. */
export class Stream {
  private stopped = false;
  private request = new AbortController();
  private failures = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly hub: Hub,
    private readonly collections: readonly string[],
    /** The id of the last event, "" for from now on. */
    public last: string,
    private readonly onRecord: (record: TelemetryRecord) => void,
    private readonly onState: (live: boolean) => void,
  ) {
    void this.read();
  }

  stop(): void {
    this.stopped = true;
    this.request.abort();
    clearTimeout(this.timer);
  }

  private async read(): Promise<void> {
    const request = new AbortController();
    this.request = request;
    const path = `${this.hub.bucket()}/stream?collections=${this.collections.join(",")}`;
    let watch = setTimeout(() => {
      request.abort();
    }, SILENCE_MS);
    try {
      const answer = await this.hub.request(path, {
        signal: request.signal,
        headers: { Accept: "text/event-stream", ...(this.last && { "Last-Event-ID": this.last }) },
      });
      if (!answer.ok || answer.body === null) throw new Error(`HTTP ${answer.status}`);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const parser = new EventParser();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        clearTimeout(watch);
        watch = setTimeout(() => {
          request.abort();
        }, SILENCE_MS);
        for (const event of parser.push(value)) this.take(event);
      }
    } catch {
      // Said by onState; what was missed comes with the next try.
    }
    clearTimeout(watch);
    if (this.stopped) return;
    this.onState(false);
    const wait = AGAIN_MS[Math.min(this.failures++, AGAIN_MS.length - 1)] ?? 0;
    this.timer = setTimeout(() => void this.read(), wait);
  }

  private take(event: Event): void {
    if (event.id !== "") this.last = event.id;
    if (event.event === "ready") {
      this.failures = 0;
      this.onState(true);
    } else if (event.event === "record")
      this.onRecord(this.hub.blur(JSON.parse(event.data) as TelemetryRecord));
  }
}
