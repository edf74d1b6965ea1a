/** The marks of tracks on the globe: a disc in flight, a triangle in reentry, hollow if the answers are degraded. */

import type { Map } from "maplibre-gl";
import type { Palette } from "./theme.ts";

/** Size in CSS pixels, and canvas pixels for each of them. */
const SIZE = 22;
const RATIO = 2;

export type Mark = "flight" | "reentry" | "flight-degraded" | "reentry-degraded" | "onset";
const MARKS: Mark[] = ["flight", "reentry", "flight-degraded", "reentry-degraded", "onset"];

export function markOf(reentry: boolean, degraded: boolean): Mark {
  return `${reentry ? "reentry" : "flight"}${degraded ? "-degraded" : ""}`;
}

/** Add the marks to the map in the colours of the palette, in place of earlier ones. */
export function addMarks(map: Map, colours: Palette): void {
  for (const mark of MARKS) {
    if (map.hasImage(mark)) map.removeImage(mark);
    map.addImage(mark, draw(mark, colours), { pixelRatio: RATIO });
  }
}

function draw(mark: Mark, colours: Palette): ImageData {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIZE * RATIO;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.scale(RATIO, RATIO);
  context.translate(SIZE / 2, SIZE / 2);
  context.lineJoin = "round";
  context.beginPath();
  if (mark === "onset") {
    context.moveTo(-4, -4);
    context.lineTo(4, 4);
    context.moveTo(4, -4);
    context.lineTo(-4, 4);
    stroke(context, colours.halo, 5);
    stroke(context, colours.reentry, 2);
  } else {
    const reentry = mark.startsWith("reentry");
    if (reentry) triangle(context, 7.5);
    else context.arc(0, 0, 4.5, 0, 2 * Math.PI);
    const colour = reentry ? colours.reentry : colours.flight;
    const hollow = mark.endsWith("degraded");
    stroke(context, colours.halo, 5);
    context.fillStyle = hollow ? colours.halo : colour;
    context.fill();
    stroke(context, hollow ? colour : colours.halo, hollow ? 2 : 1);
  }
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** A triangle that points down. */
function triangle(context: CanvasRenderingContext2D, radius: number): void {
  context.moveTo(0, radius);
  context.lineTo(-radius * 0.9, -radius * 0.6);
  context.lineTo(radius * 0.9, -radius * 0.6);
  context.closePath();
}

function stroke(context: CanvasRenderingContext2D, colour: string, width: number): void {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}
