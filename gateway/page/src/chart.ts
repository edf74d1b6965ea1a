/** Altitude and probability of the selected track over time, with its onset. */

import { html, LitElement, nothing } from "lit";
import uPlot from "uplot";
import { dateAndTime, iso, kilometres, probability, signedSeconds, time } from "./format.ts";
import { inReentry, type ListedAlert, type Store, type Track } from "./store.ts";
import { onThemeChange, type Palette, palette } from "./theme.ts";

const ALTITUDE_SHARE = 0.58;
/** Duration of the latest part of a track that can be shown alone, s. */
const LATEST = 120;

export class TrackChart extends LitElement {
  static override properties = { store: { attribute: false }, revision: { attribute: false }, whole: { state: true } };
  declare store: Store;
  declare revision: number;
  /** Whether the whole track is shown, or its last two minutes. */
  declare whole: boolean;

  private plots: uPlot[] = [];
  private resizes = new ResizeObserver(() => this.resize());
  private endTheme = () => {};

  constructor() {
    super();
    this.whole = true;
  }

  protected override createRenderRoot(): this {
    return this;
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.endTheme = onThemeChange(() => (this.destroy(), this.requestUpdate()));
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.resizes.disconnect();
    this.endTheme();
    this.destroy();
  }

  private get track(): Track | undefined {
    return this.store.tracks.get(this.store.selected ?? "");
  }

  protected override updated(): void {
    const track = this.track;
    if (!track) {
      this.destroy();
      return;
    }
    if (this.plots.length === 0) this.create();
    const [altitudes, probabilities] = this.plots;
    const from = this.whole ? 0 : track.timestamp.findIndex((timestamp) => timestamp >= track.timestamp.at(-1)! - LATEST);
    const times = track.timestamp.slice(from);
    altitudes?.setData([times, track.altitude.slice(from).map((metres) => metres / 1000)]);
    probabilities?.setData([times, track.probability.slice(from)]);
  }

  private create(): void {
    const box = this.querySelector<HTMLElement>(".plots")!;
    const colours = palette();
    const sync = uPlot.sync("track");
    const plot = (label: string, axis: uPlot.Axis, scale: uPlot.Scale, colour: string, below: boolean) =>
      new uPlot(
        {
          width: 100,
          height: 100,
          tzDate: (timestamp) => uPlot.tzDate(new Date(timestamp * 1000), "Etc/UTC"),
          legend: { show: false },
          cursor: { sync: { key: sync.key }, drag: { setScale: false } },
          padding: [10, 12, below ? 0 : 4, 0],
          scales: { x: { time: true }, y: scale },
          axes: [timeAxis(colours, below), { ...valueAxis(colours), label, ...axis }],
          series: [{}, { label, stroke: colour, width: 2, points: { show: false } }],
          hooks: { draw: [(drawn) => this.drawOnset(drawn, colours, !below)] },
        },
        undefined,
        box,
      );
    this.plots = [
      plot("Altitude, km", {}, { range: (_, __, most) => [0, Math.max(1, most * 1.08)] }, colours.flight, false),
      plot("Probability", { splits: [0, 0.5, 1] }, { range: [0, 1.05] }, colours.reentry, true),
    ];
    for (const { root } of this.plots) sync.sub(this.plots.find((drawn) => drawn.root === root)!);
    this.resizes.disconnect();
    this.resizes.observe(box);
    this.resize();
  }

  private resize(): void {
    const box = this.querySelector<HTMLElement>(".plots");
    if (!box || box.clientWidth === 0) return;
    const { clientWidth: width, clientHeight: height } = box;
    this.plots.forEach((plot, index) =>
      plot.setSize({ width, height: Math.floor(height * (index === 0 ? ALTITUDE_SHARE : 1 - ALTITUDE_SHARE)) }),
    );
  }

  private destroy(): void {
    for (const plot of this.plots) plot.destroy();
    this.plots = [];
  }

  /** A line at the onset, and a dashed one with its deviation at the refined onset. */
  private drawOnset(plot: uPlot, colours: Palette, named: boolean): void {
    const track = this.track;
    if (!track || track.onset === null) return;
    const { ctx: context, bbox: box } = plot;
    const place = (timestamp: number) => plot.valToPos(timestamp, "x", true);
    context.save();
    context.beginPath();
    context.rect(box.left, 0, box.width, box.top + box.height);
    context.clip();
    const refined = refinedOf(track, this.store.alertOf(track.key));
    if (refined) {
      const { refinedOnset, deviation } = refined;
      context.fillStyle = colours.reentry;
      context.globalAlpha = 0.16;
      const [from, to] = [place(refinedOnset - (deviation ?? 0)), place(refinedOnset + (deviation ?? 0))];
      context.fillRect(from, box.top, to - from, box.height);
      context.globalAlpha = 1;
      line(context, place(refinedOnset), box, colours.reentry, [5, 4]);
    }
    line(context, place(track.onset), box, colours.text, []);
    if (named) {
      const ratio = uPlot.pxRatio;
      context.font = `${11 * ratio}px system-ui, sans-serif`;
      context.fillStyle = colours.text;
      // The name is on the side that the refined onset leaves free.
      const left = !refined || refined.refinedOnset >= track.onset;
      context.textAlign = left ? "right" : "left";
      context.fillText("onset", place(track.onset) + (left ? -5 : 5) * ratio, box.top + 11 * ratio);
    }
    context.restore();
  }

  protected override render() {
    const track = this.track;
    if (!track) {
      const { selected } = this.store;
      return html`
        <h2 id="chart-title">Selected track</h2>
        <p class="empty">${selected ? "No measurement of this track has come since the page was opened." : "Select a track in the table, on the globe or at an alert."}</p>
      `;
    }
    const alert = this.store.alertOf(track.key);
    const refined = refinedOf(track, alert);
    return html`
      <div class="chart-head">
        <h2 id="chart-title">
          Track ${track.id} <span class="feed">${track.feed}</span>
          ${track.degraded ? html`<span class="badge degraded">degraded</span>` : nothing}
        </h2>
        <div role="group" aria-label="Part of the track">
          ${[true, false].map(
            (whole) => html`<button type="button" class="span" aria-pressed=${this.whole === whole} @click=${() => (this.whole = whole)}>
              ${whole ? "Whole track" : "Last 2 minutes"}
            </button>`,
          )}
        </div>
      </div>
      <dl class="facts">
        <div><dt>Phase</dt><dd>${inReentry(track) ? "reentry" : "flight"}</dd></div>
        <div><dt>Altitude</dt><dd>${kilometres(track.altitude.at(-1))} km</dd></div>
        <div><dt>Probability</dt><dd>${probability(track.probability.at(-1))}</dd></div>
        <div><dt>Onset</dt><dd>${track.onset === null ? "none yet" : html`<time datetime=${iso(track.onset)}>${time(track.onset)}</time>`}</dd></div>
        ${refined && track.onset !== null
          ? html`<div><dt>Refined onset</dt><dd>${signedSeconds(refined.refinedOnset - track.onset)}${refined.deviation === null ? nothing : html` ± ${refined.deviation.toFixed(1)} s`}</dd></div>`
          : nothing}
        <div><dt>Latest (UTC)</dt><dd>${dateAndTime(track.timestamp.at(-1)!)}</dd></div>
        <div><dt>Version</dt><dd>${track.modelVersion}</dd></div>
      </dl>
      <div class="plots" role="img" aria-label=${description(track)}></div>
    `;
  }
}

function refinedOf(track: Track, alert: ListedAlert | undefined) {
  return alert && alert.onset === track.onset ? alert.refinements.at(-1) : undefined;
}

function description(track: Track): string {
  const onset = track.onset === null ? "no onset" : `onset at ${time(track.onset)} UTC`;
  const [first, last] = [track.timestamp[0]!, track.timestamp.at(-1)!];
  const measured = `from ${time(first)} to ${time(last)} UTC`;
  return `Altitude and probability of track ${track.id} ${measured}: now ${kilometres(track.altitude.at(-1))} km and ${probability(track.probability.at(-1))}, ${onset}.`;
}

function line(context: CanvasRenderingContext2D, x: number, box: uPlot.BBox, colour: string, dash: number[]): void {
  context.beginPath();
  context.setLineDash(dash.map((length) => length * uPlot.pxRatio));
  context.lineWidth = 1.5 * uPlot.pxRatio;
  context.strokeStyle = colour;
  context.moveTo(x, box.top);
  context.lineTo(x, box.top + box.height);
  context.stroke();
}

const FONT = "11px system-ui, sans-serif";

function axis(colours: Palette): uPlot.Axis {
  const stroke = { stroke: colours.line, width: 1 };
  return { stroke: colours.muted, font: FONT, grid: stroke, ticks: { ...stroke, size: 4 } };
}

function timeAxis(colours: Palette, shown: boolean): uPlot.Axis {
  const values = (_: uPlot, splits: number[]) => splits.map((timestamp) => time(timestamp).slice(0, 8));
  return { ...axis(colours), values: shown ? values : () => [], size: shown ? 26 : 6, space: 64 };
}

function valueAxis(colours: Palette): uPlot.Axis {
  return { ...axis(colours), labelFont: FONT, labelSize: 16, labelGap: 2, size: 38, space: 28 };
}

customElements.define("track-chart", TrackChart);
