/** The alerts, the newest first, each with its refinements. New ones are announced to screen readers. */

import { html, LitElement, nothing } from "lit";
import { repeat } from "lit/directives/repeat.js";
import type { Refinement } from "./events.ts";
import { dateAndTime, iso, probability, time } from "./format.ts";
import type { ListedAlert, Store } from "./store.ts";

/** Alerts of this time are announced together, ms. */
const ANNOUNCE_AFTER = 500;

export class AlertList extends LitElement {
  static override properties = { store: { attribute: false }, revision: { attribute: false }, announcement: { state: true } };
  declare store: Store;
  declare revision: number;
  declare announcement: string;

  private fresh: ListedAlert[] = [];
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    super();
    this.announcement = "";
  }

  protected override createRenderRoot(): this {
    return this;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.store.addEventListener("alert", this.announce);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.store.removeEventListener("alert", this.announce);
    clearTimeout(this.timer);
  }

  private readonly announce = (event: Event): void => {
    this.fresh.push((event as CustomEvent<ListedAlert>).detail);
    this.timer ??= setTimeout(() => {
      const [latest] = this.fresh.slice(-1);
      const others = this.fresh.length - 1;
      if (latest) this.announcement = `${sentence(latest)}${others > 0 ? ` And ${others} more alerts.` : ""}`;
      this.fresh = [];
      this.timer = undefined;
    }, ANNOUNCE_AFTER);
  };

  protected override render() {
    const { alerts } = this.store;
    return html`
      <h2 id="alerts-title">Alerts <span class="count">${alerts.length}</span></h2>
      <p class="visually-hidden" aria-live="polite" data-announcement>${this.announcement}</p>
      ${alerts.length === 0
        ? html`<p class="empty">No reentry since the page was opened.</p>`
        : html`<ol class="scroll" tabindex="0" aria-labelledby="alerts-title">
            ${repeat(alerts, (alert) => alert.key, (alert) => this.item(alert))}
          </ol>`}
    `;
  }

  private item(alert: ListedAlert) {
    const selected = alert.trackKey === this.store.selected;
    return html`
      <li class=${selected ? "selected" : ""}>
        <button type="button" aria-pressed=${selected} @click=${() => this.store.select(alert.trackKey)}>
          <span class="mark reentry" aria-hidden="true"></span>
          <span class="what">Track ${alert.trackId} <span class="feed">${alert.feed}</span></span>
          <time datetime=${iso(alert.onset)} title="${dateAndTime(alert.onset)} UTC">${time(alert.onset)}</time>
        </button>
        <p class="details">
          ${alert.given
            ? html`probability ${probability(alert.probability)}${alert.latencyMs === null ? nothing : html` · ${alert.latencyMs.toFixed(1)} ms`}`
            : "given before the page was opened"}
          · version ${alert.modelVersion}
          ${alert.degraded ? html`<span class="badge degraded">degraded</span>` : nothing}
        </p>
        ${alert.refinements.length === 0
          ? nothing
          : html`<ul class="refinements" aria-label="Refined onset of track ${alert.trackId}">
              ${alert.refinements.map(refined)}
            </ul>`}
      </li>
    `;
  }
}

function refined({ refinedOnset, deviation, hindsightSeconds }: Refinement) {
  return html`<li>
    after ${hindsightSeconds.toFixed(0)} s: <time datetime=${iso(refinedOnset)}>${time(refinedOnset)}</time>
    ${deviation === null ? nothing : html`± ${deviation.toFixed(1)} s`}
  </li>`;
}

function sentence(alert: ListedAlert): string {
  const degraded = alert.degraded ? ", degraded answer" : "";
  return `Alert: track ${alert.trackId} of feed ${alert.feed} entered reentry at ${time(alert.onset)} UTC, probability ${probability(alert.probability)}${degraded}.`;
}

customElements.define("alert-list", AlertList);
