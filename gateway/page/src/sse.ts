/** Parser of server-sent events, after the HTML standard. The browser's EventSource cannot send a key in a header. */

export interface Message {
  event: string;
  data: string;
}

export class SseParser {
  /** Id of the latest event that had one. A reconnect sends it as `Last-Event-ID`. */
  lastEventId = "";
  /** Pause before a reconnect that the server asked for, ms. */
  retry: number | null = null;

  private rest = "";
  private event = "";
  private data: string[] = [];
  private id: string | null = null;

  constructor(private readonly dispatch: (message: Message) => void) {}

  /** Parse a piece of the stream. It may end anywhere, also inside a line or between the two characters of a line end. */
  push(piece: string): void {
    const text = this.rest + piece;
    const complete = text.endsWith("\r") ? text.length - 1 : text.length;
    const lines = text.slice(0, complete).split(/\r\n|\n|\r/);
    this.rest = lines.pop() + text.slice(complete);
    for (const line of lines) this.line(line);
  }

  /** Forget the event that the end of the connection left incomplete. */
  reset(): void {
    this.rest = "";
    this.clear();
  }

  private line(line: string): void {
    if (line === "") {
      this.end();
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "event") this.event = value;
    else if (name === "data") this.data.push(value);
    else if (name === "id" && !value.includes("\0")) this.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
  }

  private end(): void {
    const { event, data, id } = this;
    this.clear();
    if (data.length > 0) this.dispatch({ event: event || "message", data: data.join("\n") });
    // The id counts only once the event has been taken: if that fails, a reconnect asks for the event again.
    if (id !== null) this.lastEventId = id;
  }

  private clear(): void {
    this.event = "";
    this.data = [];
    this.id = null;
  }
}
