/** The connection to `GET /v1/events`: it sends the key as a header and reconnects after the latest event it has. */

import { type Message, SseParser } from "./sse.ts";

export const EVENTS = "/v1/events";
/** Longest pause before a reconnect, ms. */
const LONGEST_PAUSE = 30_000;
/** The server sends a comment every 15 s. A connection that is silent for three of them is broken. */
const LONGEST_SILENCE = 45_000;

export type ConnectionState =
  | { kind: "connecting" }
  | { kind: "live" }
  | { kind: "waiting"; reason: string; until: number }
  /** The server refuses the key; `reason` is its answer. No further attempt is made. */
  | { kind: "refused"; reason: string };

export interface ConnectionOptions {
  key: string;
  url?: string;
  onMessage: (message: Message) => void;
  onState: (state: ConnectionState) => void;
}

export class Connection {
  private readonly ended = new AbortController();
  private readonly parser: SseParser;
  private failures = 0;

  constructor(private readonly options: ConnectionOptions) {
    this.parser = new SseParser((message) => {
      this.failures = 0;
      options.onMessage(message);
    });
    void this.run();
  }

  close(): void {
    this.ended.abort();
  }

  private async run(): Promise<void> {
    while (!this.ended.signal.aborted) {
      this.options.onState({ kind: "connecting" });
      let reason = "The server ended the connection.";
      let retryAfter = 0;
      try {
        const refusal = await this.read();
        if (refusal) {
          ({ reason, retryAfter } = refusal);
          if (refusal.status === 401 || refusal.status === 403) {
            if (!this.ended.signal.aborted) this.options.onState({ kind: "refused", reason });
            return;
          }
        }
      } catch (error) {
        if (this.ended.signal.aborted) return;
        reason = error instanceof Silence ? error.message : "The server cannot be reached.";
      }
      this.parser.reset();
      if (this.ended.signal.aborted) return;
      const pause = Math.max(retryAfter, this.nextPause());
      this.options.onState({ kind: "waiting", reason, until: Date.now() + pause });
      await this.sleep(pause);
    }
  }

  /** Read events until the connection ends. Returns the refusal if the server did not accept the request. */
  private async read(): Promise<Refusal | null> {
    const attempt = new AbortController();
    const signal = AbortSignal.any([attempt.signal, this.ended.signal]);
    const headers: Record<string, string> = { Accept: "text/event-stream", Authorization: `Bearer ${this.options.key}` };
    if (this.parser.lastEventId) headers["Last-Event-ID"] = this.parser.lastEventId;
    let timer = setTimeout(() => attempt.abort(new Silence()), LONGEST_SILENCE);
    try {
      const response = await fetch(this.options.url ?? EVENTS, { headers, cache: "no-store", credentials: "omit", signal });
      if (!response.ok || !response.body) return await refusalOf(response);
      this.options.onState({ kind: "live" });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        clearTimeout(timer);
        timer = setTimeout(() => attempt.abort(new Silence()), LONGEST_SILENCE);
        const { done, value } = await reader.read();
        if (done) return null;
        this.parser.push(value);
      }
    } finally {
      clearTimeout(timer);
      attempt.abort();
    }
  }

  /** The pause doubles with each attempt that brings no event. Half of it is random, so that many pages do not return at once. */
  private nextPause(): number {
    const longest = Math.min(LONGEST_PAUSE, (this.parser.retry ?? 1000) * 2 ** this.failures);
    this.failures += 1;
    return longest / 2 + (Math.random() * longest) / 2;
  }

  private sleep(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.ended.signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
    });
  }
}

class Silence extends Error {
  override readonly message = "The server was silent for 45 s.";
}

interface Refusal {
  status: number;
  /** The detail and the fix of a problem (RFC 9457), or the status. */
  reason: string;
  /** Pause that the server asks for, ms. */
  retryAfter: number;
}

async function refusalOf(response: Response): Promise<Refusal> {
  let reason = `The server answered ${response.status} ${response.statusText}`.trimEnd() + ".";
  try {
    const problem = (await response.json()) as Record<string, unknown>;
    const parts = [problem["detail"] ?? problem["title"], problem["fix"]].filter((part) => typeof part === "string");
    if (parts.length > 0) reason = parts.join(" ");
  } catch {
    // The answer is not JSON: a proxy gave it.
  }
  return { status: response.status, reason, retryAfter: (Number(response.headers.get("Retry-After")) || 0) * 1000 };
}
