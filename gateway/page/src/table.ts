/** The live tracks as a table that can be sorted. It is the equal of the globe for keyboards and screen readers. */

import { html, LitElement, nothing } from "lit";
import { repeat } from "lit/directives/repeat.js";
import { iso, kilometres, probability, time } from "./format.ts";
import { inReentry, isSilent, type Store, type Track } from "./store.ts";

interface Column {
  name: string;
  title: string;
  /** Value by which rows are sorted; unknown values come last in both directions. */
  value: (track: Track) => number | string | null;
}

const COLUMNS: Column[] = [
  { name: "track", title: "Track", value: (track) => track.id },
  { name: "feed", title: "Feed", value: (track) => track.feed },
  { name: "phase", title: "Phase", value: (track) => (inReentry(track) ? 1 : 0) },
  { name: "altitude", title: "Altitude, km", value: (track) => track.altitude.at(-1)! },
  { name: "probability", title: "Prob\u00adability", value: (track) => track.probability.at(-1) ?? null },
  { name: "onset", title: "Onset", value: (track) => track.onset },
  { name: "latest", title: "Latest", value: (track) => track.timestamp.at(-1)! },
];

export interface Sorting {
  column: string;
  ascending: boolean;
}

export function sorted(tracks: Iterable<Track>, { column, ascending }: Sorting): Track[] {
  const { value } = COLUMNS.find(({ name }) => name === column)!;
  const sign = ascending ? 1 : -1;
  return [...tracks].sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (a === null || b === null) return a === b ? byName(one, other) : a === null ? 1 : -1;
    return a < b ? -sign : a > b ? sign : byName(one, other);
  });
}

function byName(one: Track, other: Track): number {
  return one.id - other.id || (one.feed < other.feed ? -1 : 1);
}

export class TrackTable extends LitElement {
  static override properties = { store: { attribute: false }, revision: { attribute: false }, sorting: { state: true } };
  declare store: Store;
  declare revision: number;
  declare sorting: Sorting;

  constructor() {
    super();
    this.sorting = { column: "onset", ascending: false };
  }

  protected override createRenderRoot(): this {
    return this;
  }

  private sort(column: string): void {
    const { column: current, ascending } = this.sorting;
    this.sorting = { column, ascending: column === current ? !ascending : column === "track" || column === "feed" };
  }

  /** The arrow keys, Home and End move through the rows, of which only one is a stop of the Tab key. */
  private move(event: KeyboardEvent): void {
    const buttons = [...this.querySelectorAll<HTMLButtonElement>("tbody button")];
    const here = buttons.indexOf(event.target as HTMLButtonElement);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (here < 0 || to === undefined) return;
    event.preventDefault();
    buttons[to]?.focus();
  }

  protected override render() {
    const rows = sorted(this.store.tracks.values(), this.sorting);
    const stop = this.store.tracks.has(this.store.selected ?? "") ? this.store.selected : rows[0]?.key;
    return html`
      <h2 id="table-title">Tracks <span class="count">${rows.length}</span></h2>
      <div class="scroll" tabindex="0" role="group" aria-label="Rows of tracks">
        <table @keydown=${this.move}>
          <caption class="visually-hidden">
            Live tracks. Times are UTC. The buttons of the first column select a track.
          </caption>
          <thead>
            <tr>${COLUMNS.map((column) => this.header(column))}</tr>
          </thead>
          <tbody>
            ${repeat(rows, (track) => track.key, (track) => this.row(track, track.key === stop))}
          </tbody>
        </table>
        ${rows.length === 0 ? html`<p class="empty">No track yet.</p>` : nothing}
      </div>
    `;
  }

  private header({ name, title }: Column) {
    const current = this.sorting.column === name;
    const direction = this.sorting.ascending ? "ascending" : "descending";
    return html`
      <th scope="col" class=${name} aria-sort=${current ? direction : "none"}>
        <button type="button" @click=${() => this.sort(name)}>
          ${title}<span class="arrow" aria-hidden="true">${current ? (this.sorting.ascending ? "▲" : "▼") : ""}</span>
        </button>
      </th>
    `;
  }

  private row(track: Track, stop: boolean) {
    const selected = track.key === this.store.selected;
    const reentry = inReentry(track);
    const latest = track.timestamp.at(-1)!;
    return html`
      <tr class=${selected ? "selected" : ""} @click=${() => this.store.select(track.key)}>
        <th scope="row" class="track">
          <button type="button" aria-pressed=${selected} tabindex=${stop ? 0 : -1}>
            <span class="visually-hidden">Track </span>${track.id}
          </button>
          <span class="feed-of-track">${track.feed}</span>
        </th>
        <td class="feed">${track.feed}</td>
        <td class="phase">
          <span class="whole"><span class="mark ${reentry ? "reentry" : "flight"}" aria-hidden="true"></span>${reentry ? "reentry" : "flight"}</span>
          ${track.degraded ? html`<span class="badge degraded">degraded</span>` : nothing}
          ${isSilent(track, Date.now()) ? html`<span class="badge">silent</span>` : nothing}
        </td>
        <td class="altitude">${kilometres(track.altitude.at(-1))}</td>
        <td class="probability">${probability(track.probability.at(-1))}</td>
        <td class="onset">${track.onset === null ? time(null) : html`<time datetime=${iso(track.onset)}>${time(track.onset)}</time>`}</td>
        <td class="latest"><time datetime=${iso(latest)}>${time(latest).slice(0, 8)}</time></td>
      </tr>
    `;
  }
}

customElements.define("track-table", TrackTable);
