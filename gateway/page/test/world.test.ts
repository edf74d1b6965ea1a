import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { mesh } from "topojson-client";
import { type Atlas, borders, coast, land, unwrap, unwrapRing } from "../src/world.ts";

function atlas(): Atlas {
  return JSON.parse(readFileSync("node_modules/world-atlas/countries-50m.json", "utf8")) as Atlas;
}

function longestStep(lines: number[][][]): number {
  return Math.max(...lines.map((line) => Math.max(...line.slice(1).map((to, index) => Math.abs(to[0]! - line[index]![0]!)))));
}

test("a line across the antimeridian continues beyond 180 degrees", () => {
  assert.deepEqual(unwrap([[179, 1], [-179, 2], [-178, 3], [178, 4]]), [[179, 1], [181, 2], [182, 3], [178, 4]]);
});

test("a ring around the south pole is closed along the pole", () => {
  const ring = unwrapRing([[-170, -80], [0, -75], [170, -80], [-170, -80]]);
  assert.deepEqual(ring, [[-170, -80], [0, -75], [170, -80], [190, -80], [190, -90], [-170, -90], [-170, -80]]);
});

test("no coast and no border of the atlas spans the world", () => {
  assert.ok(longestStep(coast(atlas()).geometry.coordinates) < 20);
  assert.ok(longestStep(borders(atlas()).geometry.coordinates) < 20);
});

test("long lines are cut into pieces that share their ends", () => {
  const pieces = coast(atlas()).geometry.coordinates;
  const total = (lines: number[][][]) => lines.reduce((sum, line) => sum + line.length - 1, 0);
  assert.ok(Math.max(...pieces.map((line) => line.length)) <= 2000);
  assert.equal(total(pieces), total(mesh(atlas(), atlas().objects.land).coordinates));
});

test("every ring of the land is closed, and only Antarctica's may follow a parallel around the world", () => {
  for (const { geometry } of land(atlas()).features) {
    assert.ok(geometry.type === "Polygon" || geometry.type === "MultiPolygon");
    for (const rings of geometry.type === "Polygon" ? [geometry.coordinates] : geometry.coordinates) {
      for (const ring of rings) {
        assert.deepEqual(ring[0], ring.at(-1));
        if (ring.every((position) => position[1]! > -80)) assert.ok(longestStep([ring]) < 180);
      }
    }
  }
});
