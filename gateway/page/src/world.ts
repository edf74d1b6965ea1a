/** Land, borders and a graticule for MapLibre, from the atlas that is part of the page. */

import type { Feature, FeatureCollection, MultiLineString, Position } from "geojson";
import { feature, mesh } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";

/** Positions of one line. */
const LONGEST_LINE = 2000;

export type Atlas = Topology<{ countries: GeometryCollection; land: GeometryCollection }>;

/** The atlas lets rings cross the antimeridian. In the plane that MapLibre cuts into tiles, such a step would span the world. */
export function unwrap(positions: Position[]): Position[] {
  let turn = 0;
  return positions.map(([longitude, latitude], index) => {
    const before = positions[index - 1];
    if (before) {
      const step = longitude! - before[0]!;
      if (step > 180) turn -= 360;
      else if (step < -180) turn += 360;
    }
    return [longitude! + turn, latitude!];
  });
}

/** A ring around a pole does not close in the plane; it is led along the pole. */
export function unwrapRing(ring: Position[]): Position[] {
  const unwrapped = unwrap(ring);
  const first = unwrapped[0]!;
  const last = unwrapped.at(-1)!;
  if (Math.abs(last[0]! - first[0]!) < 180) return unwrapped;
  const pole = last[1]! < 0 ? -90 : 90;
  return [...unwrapped, [last[0]!, pole], [first[0]!, pole], first];
}

export function land(atlas: Atlas): FeatureCollection {
  const { features } = feature(atlas, atlas.objects.land);
  for (const { geometry } of features) {
    if (geometry.type === "Polygon") geometry.coordinates = geometry.coordinates.map(unwrapRing);
    if (geometry.type === "MultiPolygon") geometry.coordinates = geometry.coordinates.map((rings) => rings.map(unwrapRing));
  }
  return { type: "FeatureCollection", features };
}

export function borders(atlas: Atlas): Feature<MultiLineString> {
  return lines(mesh(atlas, atlas.objects.countries, (one, other) => one !== other));
}

export function coast(atlas: Atlas): Feature<MultiLineString> {
  return lines(mesh(atlas, atlas.objects.land));
}

function lines({ coordinates }: MultiLineString): Feature<MultiLineString> {
  const pieces = coordinates.flatMap((line) => [...cut(unwrap(line))]);
  return { type: "Feature", properties: {}, geometry: { type: "MultiLineString", coordinates: pieces } };
}

/** MapLibre reserves room for ten vertices per position of a line, and has 65,535 of them. */
function* cut(line: Position[]): Generator<Position[]> {
  for (let start = 0; start < line.length - 1; start += LONGEST_LINE - 1) yield line.slice(start, start + LONGEST_LINE);
}

/** Meridians and parallels, 30 degrees apart. */
export function graticule(): Feature<MultiLineString> {
  const steps = (from: number, to: number) => Array.from({ length: (to - from) / 5 + 1 }, (_, index) => from + 5 * index);
  const meridians = steps(-180, 150).filter((longitude) => longitude % 30 === 0).map((x) => steps(-85, 85).map((y) => [x, y]));
  const parallels = steps(-60, 60).filter((latitude) => latitude % 30 === 0).map((y) => steps(-180, 180).map((x) => [x, y]));
  return { type: "Feature", properties: {}, geometry: { type: "MultiLineString", coordinates: [...meridians, ...parallels] } };
}
