/** The style of the globe, and the tracks as GeoJSON for its sources. */

import type { Feature, FeatureCollection, LineString, Point, Position } from "geojson";
import type { LayerSpecification, StyleSpecification } from "maplibre-gl";
import { markOf } from "./marks.ts";
import { inReentry, isSilent, type Track } from "./store.ts";
import type { Palette } from "./theme.ts";
import { unwrap } from "./world.ts";

/** Points of a trail on the globe. Longer tracks are thinned for it. */
const TRAIL_POINTS = 60;

const EMPTY: FeatureCollection = { type: "FeatureCollection", features: [] };

export function globeStyle(colours: Palette): StyleSpecification {
  const layers: LayerSpecification[] = [
    { id: "ocean", type: "background", paint: { "background-color": colours.ocean } },
    { id: "land", type: "fill", source: "land", paint: { "fill-color": colours.land, "fill-antialias": false } },
    { id: "graticule", type: "line", source: "graticule", paint: { "line-color": colours.graticule, "line-width": 0.6 } },
    { id: "borders", type: "line", source: "borders", paint: { "line-color": colours.border, "line-width": 0.7 } },
    { id: "coast", type: "line", source: "coast", paint: { "line-color": colours.coast, "line-width": 0.9 } },
    {
      id: "trails",
      type: "line",
      source: "trails",
      layout: { "line-cap": "round", "line-join": "round" },
      paint: {
        "line-color": ["case", ["get", "reentry"], colours.reentry, colours.flight],
        "line-width": ["case", ["get", "reentry"], 3.5, 2],
        "line-opacity": ["case", ["get", "silent"], 0.35, 0.85],
      },
    },
    {
      id: "onsets",
      type: "symbol",
      source: "onsets",
      layout: { "icon-image": "onset", "icon-allow-overlap": true, "icon-ignore-placement": true },
    },
    {
      id: "selected",
      type: "circle",
      source: "positions",
      filter: ["get", "selected"],
      paint: {
        "circle-radius": 13,
        "circle-color": "transparent",
        "circle-stroke-color": colours.selected,
        "circle-stroke-width": 2.5,
      },
    },
    {
      id: "positions",
      type: "symbol",
      source: "positions",
      layout: {
        "icon-image": ["get", "mark"],
        "icon-allow-overlap": true,
        "icon-ignore-placement": true,
        "text-field": ["get", "label"],
        "text-font": ["sans-serif"],
        "text-size": 12,
        "text-max-width": 30,
        "text-anchor": "left",
        "text-offset": [1.05, 0],
        "text-optional": true,
        "symbol-sort-key": ["get", "order"],
      },
      paint: {
        "icon-opacity": ["case", ["get", "silent"], 0.45, 1],
        "text-color": colours.label,
        "text-halo-color": colours.halo,
        "text-halo-width": 1.4,
      },
    },
  ];
  const source = { type: "geojson" as const, data: EMPTY };
  const names = ["land", "graticule", "borders", "coast", "trails", "onsets", "positions"];
  return {
    version: 8,
    projection: { type: "globe" },
    sources: Object.fromEntries(names.map((name) => [name, { ...source, tolerance: 0.2 }])),
    layers,
  };
}

/** The selected track comes last and therefore on top, before it those in reentry. */
function order(track: Track, selected: string | null): number {
  return track.key === selected ? 0 : inReentry(track) ? 1 : 2;
}

export function positions(tracks: Iterable<Track>, selected: string | null, now: number): FeatureCollection<Point> {
  const features = [...tracks].map((track): Feature<Point> => ({
    type: "Feature",
    properties: {
      key: track.key,
      label: `${track.id}${inReentry(track) ? " reentry" : ""}${track.degraded ? " (degraded)" : ""}`,
      mark: markOf(inReentry(track), track.degraded),
      silent: isSilent(track, now),
      selected: track.key === selected,
      order: order(track, selected),
    },
    geometry: { type: "Point", coordinates: [track.longitude.at(-1)!, track.latitude.at(-1)!] },
  }));
  return { type: "FeatureCollection", features };
}

/** The trail of each track, as one line in flight and one in reentry. */
export function trails(tracks: Iterable<Track>, now: number): FeatureCollection<LineString> {
  const features: Feature<LineString>[] = [];
  for (const track of tracks) {
    const silent = isSilent(track, now);
    let line: Position[] = [];
    let phase: boolean | undefined;
    const end = () => {
      if (line.length > 1) {
        const geometry: LineString = { type: "LineString", coordinates: unwrap(line) };
        features.push({ type: "Feature", properties: { reentry: phase, silent }, geometry });
      }
    };
    for (const index of thinned(track)) {
      const position = [track.longitude[index]!, track.latitude[index]!];
      line.push(position);
      if (track.reentry[index] !== phase) {
        if (phase !== undefined) {
          end();
          line = [position];
        }
        phase = track.reentry[index];
      }
    }
    end();
  }
  return { type: "FeatureCollection", features };
}

/** Where the onset of each track was. */
export function onsets(tracks: Iterable<Track>): FeatureCollection<Point> {
  const features: Feature<Point>[] = [];
  for (const track of tracks) {
    const index = track.onset === null ? -1 : track.timestamp.findIndex((timestamp) => timestamp >= track.onset!);
    if (index < 0 || (index === 0 && track.timestamp[0]! > track.onset!)) continue;
    const coordinates = [track.longitude[index]!, track.latitude[index]!];
    features.push({ type: "Feature", properties: {}, geometry: { type: "Point", coordinates } });
  }
  return { type: "FeatureCollection", features };
}

/** Indices of at most about TRAIL_POINTS points, always with the last one and those where the phase changes. */
function* thinned(track: Track): Generator<number> {
  const last = track.timestamp.length - 1;
  const step = Math.max(1, Math.ceil(last / TRAIL_POINTS));
  for (let index = 0; index <= last; index++) {
    const changes = index > 0 && track.reentry[index] !== track.reentry[index - 1];
    if (index % step === 0 || index === last || changes) yield index;
  }
}

export interface View {
  center: [number, number];
  /** Angle between the centre and the farthest position, radians. */
  radius: number;
}

/** The view of the globe that holds the positions, computed on the sphere, so that the antimeridian does not matter. */
export function viewOf(positions: [number, number][]): View | null {
  const vectors = positions.map(([longitude, latitude]) => {
    const [x, y] = [(longitude * Math.PI) / 180, (latitude * Math.PI) / 180];
    return [Math.cos(y) * Math.cos(x), Math.cos(y) * Math.sin(x), Math.sin(y)] as const;
  });
  const sum = vectors.reduce(([a, b, c], [x, y, z]) => [a + x, b + y, c + z] as const, [0, 0, 0] as const);
  const length = Math.hypot(...sum);
  if (length < 1e-9) return null;
  const [x, y, z] = sum.map((value) => value / length) as [number, number, number];
  const cosines = vectors.map((vector) => vector[0] * x + vector[1] * y + vector[2] * z);
  return {
    center: [(Math.atan2(y, x) * 180) / Math.PI, (Math.asin(z) * 180) / Math.PI],
    radius: Math.acos(Math.min(1, Math.max(-1, Math.min(...cosines)))),
  };
}
