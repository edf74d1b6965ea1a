/** The globe with the live tracks. The table beside it shows the same tracks as text. */

import { html, LitElement, type PropertyValues } from "lit";
import { type GeoJSONSource, Map, NavigationControl, setWorkerUrl } from "maplibre-gl";
import { globeStyle, onsets, positions, trails, viewOf } from "./layers.ts";
import { addMarks } from "./marks.ts";
import type { Store, Track } from "./store.ts";
import { onThemeChange, palette } from "./theme.ts";
import { type Atlas, borders, coast, graticule, land } from "./world.ts";

/** Addresses of the worker of MapLibre and of the atlas; the build fills them in. */
declare const MAP_WORKER: string;
declare const ATLAS: string;

/** Shortest time between two drawings of the tracks, ms. */
const REDRAW = 250;
/** Pause before the atlas is loaded again, ms. */
const RELOAD = 5000;
const CLOSEST_FIT = 3.5;
/** Angle from the centre of the view at which a position is near the edge of the globe, radians. */
const FARTHEST_VISIBLE = 1.05;

export class TrackGlobe extends LitElement {
  static override properties = { store: { attribute: false }, revision: { attribute: false }, failure: { state: true } };
  declare store: Store;
  declare revision: number;
  declare failure: string;

  private map: Map | null = null;
  private ready = false;
  private drawn = 0;
  private waiting: ReturnType<typeof setTimeout> | undefined;
  private fitted = 0;
  private moved = false;
  private selected: string | null = null;
  private endTheme = () => {};

  constructor() {
    super();
    this.failure = "";
  }

  protected override createRenderRoot(): this {
    return this;
  }

  protected override firstUpdated(): void {
    try {
      this.open();
    } catch {
      this.failure = "The globe needs WebGL, which this browser does not offer. The table shows the same tracks.";
    }
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    clearTimeout(this.waiting);
    this.endTheme();
    this.map?.remove();
    this.map = null;
  }

  private open(): void {
    setWorkerUrl(new URL(MAP_WORKER, location.href).href);
    const map = new Map({
      container: this.querySelector<HTMLElement>(".map")!,
      style: globeStyle(palette()),
      center: [0, 25],
      zoom: 1,
      minZoom: 0,
      maxZoom: 9,
      maxPitch: 0,
      attributionControl: false,
      dragRotate: false,
      pitchWithRotate: false,
      touchPitch: false,
      fadeDuration: 0,
      // On a narrow page the globe is between other parts: one finger scrolls the page.
      cooperativeGestures: matchMedia("(max-width: 70rem)").matches,
      locale: { "Map.Title": "Globe with the live tracks. The table of tracks shows the same as text." },
    });
    this.map = map;
    map.addControl(new NavigationControl({ showCompass: false }), "top-right");
    map.on("load", () => this.load(map));
    map.on("error", ({ error }) => console.error(error));
    map.on("click", "positions", (event) => this.pick(event.features?.[0]?.properties["key"]));
    map.on("mouseenter", "positions", () => (map.getCanvas().style.cursor = "pointer"));
    map.on("mouseleave", "positions", () => (map.getCanvas().style.cursor = ""));
    map.on("movestart", (event) => (this.moved ||= event.originalEvent !== undefined));
    this.endTheme = onThemeChange(() => {
      map.setStyle(globeStyle(palette()), { diff: false });
      map.once("style.load", () => this.load(map));
    });
  }

  private load(map: Map): void {
    addMarks(map, palette());
    this.source("graticule")?.setData(graticule());
    this.ready = true;
    this.draw();
    void this.drawLand(map);
  }

  /** Draw the land. If the atlas cannot be loaded now, the tracks are drawn without it, and it is loaded later. */
  private async drawLand(map: Map): Promise<void> {
    try {
      const answer = await fetch(ATLAS);
      if (!answer.ok) throw new Error(`${ATLAS}: ${answer.status}`);
      const atlas = (await answer.json()) as Atlas;
      if (map !== this.map) return;
      this.source("land")?.setData(land(atlas));
      this.source("coast")?.setData(coast(atlas));
      this.source("borders")?.setData(borders(atlas));
    } catch {
      if (map === this.map) setTimeout(() => void this.drawLand(map), RELOAD);
    }
  }

  private source(name: string): GeoJSONSource | undefined {
    return this.map?.getSource<GeoJSONSource>(name);
  }

  protected override updated(changes: PropertyValues<this>): void {
    if (!changes.has("revision")) return;
    const wait = this.drawn + REDRAW - Date.now();
    if (wait <= 0) this.draw();
    else this.waiting ??= setTimeout(() => this.draw(), wait);
  }

  private draw(): void {
    clearTimeout(this.waiting);
    this.waiting = undefined;
    if (!this.ready) return;
    const now = Date.now();
    this.drawn = now;
    const { tracks, selected } = this.store;
    this.source("trails")?.setData(trails(tracks.values(), now));
    this.source("onsets")?.setData(onsets(tracks.values()));
    this.source("positions")?.setData(positions(tracks.values(), selected, now));
    // The view follows new tracks until someone moves the globe.
    if (!this.moved && tracks.size !== this.fitted) this.fit([...tracks.values()]);
    this.fitted = tracks.size;
    if (selected !== this.selected) this.show(tracks.get(selected ?? ""));
    this.selected = selected;
  }

  /** Show a track that is outside the view, or on the other side of the globe. */
  private show(track: Track | undefined): void {
    const map = this.map;
    if (!map || !track) return;
    const position: [number, number] = [track.longitude.at(-1)!, track.latitude.at(-1)!];
    const { width, height } = map.getCanvas().getBoundingClientRect();
    const { x, y } = map.project(position);
    const margin = 40;
    const inside = x > margin && y > margin && x < width - margin && y < height - margin;
    const center = map.getCenter();
    if (inside && viewOf([position, [center.lng, center.lat]])!.radius < FARTHEST_VISIBLE / 2) return;
    map.easeTo({ center: position });
  }

  private fit(tracks: Track[]): void {
    const map = this.map;
    const view = viewOf(tracks.flatMap((track) => endsOf(track)));
    if (!map || !view) return;
    const { width, height } = map.getCanvas().getBoundingClientRect();
    const visible = Math.sin(Math.min(view.radius, 1.2)) + 0.02;
    // The edge of the globe is farther away than its centre, and looks smaller.
    const half = (0.42 + 0.13 * visible) * Math.min(width, height);
    const scale = Math.cos((view.center[1] * Math.PI) / 180);
    const zoom = Math.log2((2 * Math.PI * half * scale) / (512 * visible));
    map.easeTo({ center: view.center, zoom: Math.max(0, Math.min(zoom, CLOSEST_FIT)) });
  }

  private pick(key: unknown): void {
    if (typeof key === "string") this.store.select(key);
  }

  private fitAll(): void {
    this.moved = false;
    this.fit([...this.store.tracks.values()]);
  }

  protected override render() {
    return html`
      <h2 class="visually-hidden" id="globe-title">Globe</h2>
      ${this.failure ? html`<p class="empty">${this.failure}</p>` : null}
      <div class="map" ?hidden=${this.failure !== ""}></div>
      <button class="fit" type="button" @click=${() => this.fitAll()}>Show all tracks</button>
      <div class="foot">
        <ul class="legend" aria-label="Marks on the globe">
          <li><span class="mark flight" aria-hidden="true"></span>flight</li>
          <li><span class="mark reentry" aria-hidden="true"></span>reentry</li>
          <li><span class="mark onset" aria-hidden="true">×</span>onset</li>
          <li><span class="mark degraded" aria-hidden="true"></span>degraded</li>
        </ul>
        <p class="credit">Natural Earth</p>
      </div>
    `;
  }
}

/** The first and the last position, which mark out a track well enough for a view. */
function endsOf(track: Track): [number, number][] {
  return [
    [track.longitude[0]!, track.latitude[0]!],
    [track.longitude.at(-1)!, track.latitude.at(-1)!],
  ];
}

customElements.define("track-globe", TrackGlobe);
