/** The page: it asks for the key, connects, and passes the events to the globe, the chart, the table and the alerts. */

import { html, LitElement, nothing } from "lit";
import "./alerts.ts";
import "./chart.ts";
import { Connection, type ConnectionState } from "./connection.ts";
import { time } from "./format.ts";
import "./globe.ts";
import { forgetKey, storedKey, storeKey } from "./key-form.ts";
import { inReentry, isSilent, Store } from "./store.ts";
import "./table.ts";

export class LiveApp extends LitElement {
  static override properties = {
    key: { state: true }, problem: { state: true }, connection: { state: true }, revision: { state: true }, now: { state: true },
  };
  declare key: string | null;
  declare problem: string;
  declare connection: ConnectionState;
  declare revision: number;
  declare now: number;

  private store = new Store();
  private source: Connection | null = null;
  private frame = 0;

  constructor() {
    super();
    this.key = storedKey();
    this.problem = "";
    this.connection = { kind: "connecting" };
    this.revision = 0;
    this.now = Date.now();
  }

  protected override createRenderRoot(): this {
    return this;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    setInterval(() => (this.now = Date.now()), 1000);
    // Tracks become silent without an event.
    setInterval(() => this.changed(), 10_000);
    this.addEventListener("key", (event) => this.open((event as CustomEvent<string>).detail));
    if (this.key) this.open(this.key);
  }

  private open(key: string): void {
    storeKey(key);
    this.key = key;
    this.problem = "";
    this.store = new Store();
    this.store.addEventListener("change", () => this.changed());
    this.source = new Connection({
      key,
      onMessage: (message) => this.store.take(message),
      onState: (state) => this.connected(state),
    });
  }

  private connected(state: ConnectionState): void {
    this.connection = state;
    if (state.kind === "refused") this.close(`The server refuses this key. ${state.reason}`);
  }

  private close(problem = ""): void {
    this.source?.close();
    this.source = null;
    forgetKey();
    this.key = null;
    this.problem = problem;
  }

  /** Many events between two frames are drawn once. In a hidden tab nothing is drawn. */
  private changed(): void {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.revision += 1;
    });
  }

  protected override render() {
    return html`
      ${this.key === null ? nothing : html`<a class="skip" href="#table-title">Skip to the table of tracks</a>`}
      <header>
        <h1>reentry <span>live tracks</span></h1>
        ${this.key === null ? nothing : this.status()}
      </header>
      <main>${this.key === null ? html`<key-form .problem=${this.problem}></key-form>` : this.tracks()}</main>
    `;
  }

  private status() {
    const tracks = [...this.store.tracks.values()].filter((track) => !isSilent(track, this.now));
    return html`
      <p class="connection ${this.connection.kind}" role="status">${this.connectionText()}</p>
      <p class="summary">${tracks.length} ${tracks.length === 1 ? "track" : "tracks"}, ${tracks.filter(inReentry).length} in reentry</p>
      <p class="clock"><span class="visually-hidden">Time: </span>${time(this.now / 1000).slice(0, 8)} UTC</p>
      <button type="button" @click=${() => this.close()}>Forget the key</button>
    `;
  }

  private connectionText(): string {
    switch (this.connection.kind) {
      case "live":
        return "Live";
      case "waiting":
        return `Connection lost. ${this.connection.reason} Reconnecting.`;
      default:
        return "Connecting";
    }
  }

  private tracks() {
    const { store, revision } = this;
    return html`
      ${this.notices()}
      <section class="globe" aria-labelledby="globe-title"><track-globe .store=${store} .revision=${revision}></track-globe></section>
      <section class="chart" aria-labelledby="chart-title"><track-chart .store=${store} .revision=${revision}></track-chart></section>
      <section class="alerts" aria-labelledby="alerts-title"><alert-list .store=${store} .revision=${revision}></alert-list></section>
      <section class="table" aria-labelledby="table-title"><track-table .store=${store} .revision=${revision}></track-table></section>
    `;
  }

  private notices() {
    const { lost, unreadable, dropped, tracks } = this.store;
    const degraded = [...tracks.values()].filter((track) => track.degraded).length;
    const texts = [
      degraded > 0
        ? `Degraded: ${degraded === 1 ? "1 track is" : `${degraded} tracks are`} answered by the altitude rule, because the model cannot be reached.`
        : "",
      lost > 0 ? `Events lost: this page read too slowly and missed ${lost} live updates. No alert is missed.` : "",
      unreadable > 0 ? `${unreadable} events could not be read.` : "",
      dropped > 0 ? `Only the latest ${tracks.size} tracks are kept; ${dropped} older ones were dropped.` : "",
    ].filter((text) => text !== "");
    return html`<div class="notices" role="status">
      ${texts.map((text) => html`<p>${text}</p>`)}
      ${lost + unreadable > 0 ? html`<button type="button" @click=${() => this.store.clearNotices()}>Close</button>` : nothing}
    </div>`;
  }
}

customElements.define("live-app", LiveApp);
