/** The events that `GET /v1/events` sends, and their readers. A reader returns null if the data is not such an event. */

export interface Alert {
  feed: string;
  trackId: number;
  /** Unix time at which reentry began, s. */
  onset: number;
  detectedAt: number | null;
  probability: number | null;
  modelVersion: string;
  latencyMs: number | null;
  degraded: boolean;
}

export interface Refinement {
  feed: string;
  trackId: number;
  /** Onset of the refined alert, Unix time, s. */
  onset: number;
  refinedOnset: number;
  /** Standard deviation of the refined onset, s. */
  deviation: number | null;
  hindsightSeconds: number;
  modelVersion: string;
}

/** One measurement of a live track with its answer. */
export interface Point {
  trackId: number;
  timestamp: number;
  latitude: number;
  longitude: number;
  altitude: number;
  probability: number | null;
  reentry: boolean;
  onset: number | null;
  modelVersion: string;
  degraded: boolean;
}

export interface Update {
  feed: string;
  points: Point[];
  /** Number of tracks in the event that could not be read. */
  unreadable: number;
}

/** A whole track that the scoring route answered. */
export interface WholeTrack {
  feed: string;
  points: Point[];
}

type Fields = Record<string, unknown>;

function fields(value: unknown): Fields | null {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : null;
}

function finite(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function version(value: unknown): string {
  return typeof value === "number" || typeof value === "string" ? String(value) : "";
}

export function readAlert(data: unknown): Alert | null {
  const event = fields(data);
  const trackId = finite(event?.["track_id"]);
  const onset = finite(event?.["onset_timestamp"]);
  if (!event || typeof event["feed"] !== "string" || trackId === null || onset === null) return null;
  return {
    feed: event["feed"],
    trackId,
    onset,
    detectedAt: finite(event["detected_at"]),
    probability: finite(event["probability"]),
    modelVersion: version(event["model_version"]),
    latencyMs: finite(event["latency_ms"]),
    degraded: event["degraded"] === true,
  };
}

export function readRefinement(data: unknown): Refinement | null {
  const event = fields(data);
  const trackId = finite(event?.["track_id"]);
  const onset = finite(event?.["onset_timestamp"]);
  const refinedOnset = finite(event?.["refined_onset_timestamp"]);
  const hindsightSeconds = finite(event?.["hindsight_seconds"]);
  if (!event || typeof event["feed"] !== "string" || trackId === null || onset === null) return null;
  if (refinedOnset === null || hindsightSeconds === null) return null;
  return {
    feed: event["feed"],
    trackId,
    onset,
    refinedOnset,
    deviation: finite(event["refined_onset_deviation"]),
    hindsightSeconds,
    modelVersion: version(event["model_version"]),
  };
}

function readPoint(data: unknown): Point | null {
  const point = fields(data);
  const trackId = finite(point?.["track_id"]);
  const timestamp = finite(point?.["timestamp"]);
  const latitude = finite(point?.["latitude"]);
  const longitude = finite(point?.["longitude"]);
  const altitude = finite(point?.["altitude"]);
  if (!point || trackId === null || timestamp === null) return null;
  if (latitude === null || longitude === null || altitude === null) return null;
  if (Math.abs(latitude) > 90) return null;
  return {
    trackId,
    timestamp,
    latitude,
    longitude,
    altitude,
    probability: finite(point["probability"]),
    reentry: point["phase"] === 1 || point["phase"] === true,
    onset: finite(point["onset_timestamp"]),
    modelVersion: version(point["model_version"]),
    degraded: point["degraded"] === true,
  };
}

export function readUpdate(data: unknown): Update | null {
  const event = fields(data);
  if (!event || typeof event["feed"] !== "string" || !Array.isArray(event["tracks"])) return null;
  const points = event["tracks"].map(readPoint).filter((point) => point !== null);
  return { feed: event["feed"], points, unreadable: event["tracks"].length - points.length };
}

export function readWholeTrack(data: unknown): WholeTrack | null {
  const event = fields(data);
  if (!event || typeof event["feed"] !== "string") return null;
  const times = event["timestamp"];
  if (!Array.isArray(times) || times.length === 0) return null;
  const column = (name: string, index: number): unknown => {
    const values = event[name];
    return Array.isArray(values) && values.length === times.length ? values[index] : undefined;
  };
  const points = times.map((timestamp, index) =>
    readPoint({
      track_id: event["track_id"],
      timestamp,
      latitude: column("latitude", index),
      longitude: column("longitude", index),
      altitude: column("altitude", index),
      probability: column("probability", index),
      phase: column("phase", index),
      onset_timestamp: event["onset_timestamp"],
      model_version: event["model_version"],
      degraded: event["degraded"],
    }),
  );
  const read = points.filter((point) => point !== null);
  return read.length === points.length ? { feed: event["feed"], points: read } : null;
}

export function readLost(data: unknown): number | null {
  return finite(fields(data)?.["count"]);
}
