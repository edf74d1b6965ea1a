/** The tracks and alerts that the page knows. Memory is bounded: the oldest tracks, points and alerts are dropped. */

import { type Alert, type Point, type Refinement, readAlert, readLost, readRefinement, readUpdate, readWholeTrack } from "./events.ts";
import type { Message } from "./sse.ts";

export const MOST_TRACKS = 500;
/** Points of one track: ten minutes of measurements, 0.5 s apart. */
export const MOST_POINTS = 1200;
export const MOST_ALERTS = 200;
/** A measurement this much later or earlier than the latest one of its track begins a new track with the same number, s. */
export const NEW_TRACK_GAP = 60;
/** A track without an answer for this long is silent, ms. */
export const SILENT_AFTER = 60_000;

/** A track, its points as columns of the same length. */
export interface Track {
  key: string;
  feed: string;
  id: number;
  timestamp: number[];
  latitude: number[];
  longitude: number[];
  altitude: number[];
  probability: (number | null)[];
  reentry: boolean[];
  onset: number | null;
  modelVersion: string;
  degraded: boolean;
  /** Time of the latest answer by this computer's clock, ms. */
  receivedAt: number;
}

export interface ListedAlert extends Alert {
  key: string;
  trackKey: string;
  /** False while only a refinement of the alert is known. */
  given: boolean;
  /** Ordered by hindsight; the last one knows most. */
  refinements: Refinement[];
}

export function trackKey(feed: string, id: number): string {
  return `${id}@${feed}`;
}

export function inReentry(track: Track): boolean {
  return track.reentry.at(-1) ?? false;
}

export function isSilent(track: Track, now: number): boolean {
  return now - track.receivedAt >= SILENT_AFTER;
}

export class Store extends EventTarget {
  /** Ordered by the time of the latest answer, the oldest first. */
  readonly tracks = new Map<string, Track>();
  /** The newest first. */
  alerts: ListedAlert[] = [];
  selected: string | null = null;
  /** Live answers that the server left out because this page read too slowly. */
  lost = 0;
  /** Events, or tracks of events, that could not be read. */
  unreadable = 0;
  /** Tracks dropped to bound the memory. */
  dropped = 0;

  private readonly alertsByKey = new Map<string, ListedAlert>();

  constructor(private readonly now: () => number = Date.now) {
    super();
  }

  /** Take an event of the server. Events of a kind that this page does not know are left out. */
  take(message: Message): void {
    let data: unknown;
    try {
      data = JSON.parse(message.data);
    } catch {
      data = undefined;
    }
    switch (message.event) {
      case "alert":
        this.read(readAlert(data), (alert) => this.addAlert(alert));
        break;
      case "refinement":
        this.read(readRefinement(data), (refinement) => this.addRefinement(refinement));
        break;
      case "update":
        this.read(readUpdate(data), (update) => {
          this.unreadable += update.unreadable;
          for (const point of update.points) this.addPoint(update.feed, point);
        });
        break;
      case "track":
        this.read(readWholeTrack(data), (whole) => {
          const id = whole.points[0]!.trackId;
          const track = emptyTrack(trackKey(whole.feed, id), whole.feed, id);
          for (const point of whole.points) append(track, point);
          this.keep(track);
        });
        break;
      case "lost":
        this.read(readLost(data), (count) => (this.lost += count));
        break;
    }
    this.changed();
  }

  select(key: string | null): void {
    this.selected = key;
    this.changed();
  }

  clearNotices(): void {
    this.lost = 0;
    this.unreadable = 0;
    this.changed();
  }

  /** The latest alert of a track, which also knows the refined onset. */
  alertOf(key: string): ListedAlert | undefined {
    return this.alerts.find((alert) => alert.trackKey === key);
  }

  private read<T>(event: T | null, use: (event: T) => void): void {
    if (event === null) this.unreadable += 1;
    else use(event);
  }

  private addPoint(feed: string, point: Point): void {
    const key = trackKey(feed, point.trackId);
    let track = this.tracks.get(key);
    const latest = track?.timestamp.at(-1);
    const gap = latest === undefined ? 0 : point.timestamp - latest;
    if (track && latest !== undefined && gap <= 0 && gap >= -NEW_TRACK_GAP) return;
    if (!track || Math.abs(gap) > NEW_TRACK_GAP) track = emptyTrack(key, feed, point.trackId);
    append(track, point);
    this.keep(track);
  }

  private keep(track: Track): void {
    track.receivedAt = this.now();
    this.tracks.delete(track.key);
    this.tracks.set(track.key, track);
    if (this.tracks.size > MOST_TRACKS) this.dropOldest(track.key);
  }

  /** Drop the track that is longest without an answer, tracks in reentry last, and never the selected one. */
  private dropOldest(newest: string): void {
    let oldest: string | null = null;
    for (const [key, track] of this.tracks) {
      if (key === newest || key === this.selected) continue;
      oldest ??= key;
      if (!inReentry(track)) {
        oldest = key;
        break;
      }
    }
    if (oldest === null) return;
    this.tracks.delete(oldest);
    this.dropped += 1;
  }

  private addAlert(alert: Alert): void {
    const listed = this.listed(alert);
    if (listed.given) return;
    Object.assign(listed, alert, { given: true });
    const track = this.tracks.get(listed.trackKey);
    if (track && track.onset === null) track.onset = alert.onset;
    this.dispatchEvent(new CustomEvent<ListedAlert>("alert", { detail: listed }));
  }

  /** The refinement of an alert that was given before this page was opened lists that alert as well. */
  private addRefinement(refinement: Refinement): void {
    const { feed, trackId, onset, modelVersion } = refinement;
    const unknown = { detectedAt: null, probability: null, latencyMs: null, degraded: false };
    const listed = this.listed({ feed, trackId, onset, modelVersion, ...unknown });
    const others = listed.refinements.filter((other) => other.hindsightSeconds !== refinement.hindsightSeconds);
    listed.refinements = [...others, refinement].sort((a, b) => a.hindsightSeconds - b.hindsightSeconds);
  }

  private listed(alert: Alert): ListedAlert {
    const key = `${alert.onset}@${trackKey(alert.feed, alert.trackId)}`;
    const known = this.alertsByKey.get(key);
    if (known) return known;
    const listed = { ...alert, key, trackKey: trackKey(alert.feed, alert.trackId), given: false, refinements: [] };
    this.alertsByKey.set(key, listed);
    this.alerts = [listed, ...this.alerts];
    for (const old of this.alerts.splice(MOST_ALERTS)) this.alertsByKey.delete(old.key);
    return listed;
  }

  private changed(): void {
    this.dispatchEvent(new Event("change"));
  }
}

function emptyTrack(key: string, feed: string, id: number): Track {
  return {
    key,
    feed,
    id,
    timestamp: [],
    latitude: [],
    longitude: [],
    altitude: [],
    probability: [],
    reentry: [],
    onset: null,
    modelVersion: "",
    degraded: false,
    receivedAt: 0,
  };
}

function append(track: Track, point: Point): void {
  track.timestamp.push(point.timestamp);
  track.latitude.push(point.latitude);
  track.longitude.push(point.longitude);
  track.altitude.push(point.altitude);
  track.probability.push(point.probability);
  track.reentry.push(point.reentry);
  track.onset = point.onset;
  track.modelVersion = point.modelVersion;
  track.degraded = point.degraded;
  if (track.timestamp.length <= MOST_POINTS) return;
  for (const column of [track.timestamp, track.latitude, track.longitude, track.altitude, track.probability, track.reentry]) {
    column.shift();
  }
}
