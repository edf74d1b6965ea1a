import assert from "node:assert/strict";
import { test } from "node:test";
import { isSilent, type ListedAlert, MOST_ALERTS, MOST_POINTS, MOST_TRACKS, SILENT_AFTER, Store } from "../src/store.ts";

const POINT = {
  track_id: 7,
  timestamp: 100,
  latitude: 10,
  longitude: 20,
  altitude: 90_000,
  probability: 0.1,
  phase: 0,
  onset_timestamp: null,
  model_version: 3,
  degraded: false,
};
const ALERT = { feed: "west", track_id: 7, onset_timestamp: 101, detected_at: 101.5, probability: 0.7, model_version: 3 };

function send(store: Store, event: string, data: unknown): void {
  store.take({ event, data: JSON.stringify(data) });
}

function update(store: Store, ...points: Partial<typeof POINT>[]): void {
  send(store, "update", { feed: "west", tracks: points.map((point) => ({ ...POINT, ...point })) });
}

test("the points of a track are collected in the order of time", () => {
  const store = new Store();
  update(store, {}, { timestamp: 100.5, altitude: 89_000 }, { timestamp: 100.5 }, { timestamp: 99 });
  const track = store.tracks.get("7@west");
  assert.deepEqual(track?.timestamp, [100, 100.5]);
  assert.deepEqual(track?.altitude, [90_000, 89_000]);
});

test("feeds with the same track number do not mix", () => {
  const store = new Store();
  update(store, {});
  send(store, "update", { feed: "east", tracks: [POINT] });
  assert.deepEqual([...store.tracks.keys()], ["7@west", "7@east"]);
});

test("a number that is used again begins a new track", () => {
  const store = new Store();
  update(store, {}, { timestamp: 161 });
  assert.deepEqual(store.tracks.get("7@west")?.timestamp, [161]);
  update(store, { timestamp: 100 });
  assert.deepEqual(store.tracks.get("7@west")?.timestamp, [100]);
});

test("the oldest points are dropped beyond the bound", () => {
  const store = new Store();
  for (let step = 0; step < MOST_POINTS + 3; step++) update(store, { timestamp: step });
  const track = store.tracks.get("7@west");
  assert.equal(track?.timestamp.length, MOST_POINTS);
  assert.equal(track?.timestamp[0], 3);
  assert.equal(track?.reentry.length, MOST_POINTS);
});

test("the track longest without an answer is dropped, but neither the selected one nor one in reentry", () => {
  const store = new Store();
  store.select("0@west");
  update(store, { track_id: 0 }, { track_id: 1, phase: 1 });
  for (let id = 2; id <= MOST_TRACKS; id++) update(store, { track_id: id });
  assert.equal(store.tracks.size, MOST_TRACKS);
  assert.equal(store.dropped, 1);
  assert.ok(store.tracks.has("0@west") && store.tracks.has("1@west") && !store.tracks.has("2@west"));
});

test("a repeated alert is listed and announced once", () => {
  const store = new Store();
  const announced: string[] = [];
  store.addEventListener("alert", (event) => announced.push((event as CustomEvent<ListedAlert>).detail.key));
  send(store, "alert", ALERT);
  send(store, "alert", ALERT);
  send(store, "alert", { ...ALERT, feed: "east" });
  assert.deepEqual(store.alerts.map((alert) => alert.trackKey), ["7@east", "7@west"]);
  assert.equal(announced.length, 2);
});

test("refinements are kept at their alert in the order of hindsight", () => {
  const store = new Store();
  send(store, "alert", ALERT);
  for (const hindsight of [5, 2, 5]) {
    const event = { feed: "west", track_id: 7, onset_timestamp: 101, refined_onset_timestamp: 99 + hindsight };
    send(store, "refinement", { ...event, refined_onset_deviation: 1, hindsight_seconds: hindsight, model_version: 3 });
  }
  assert.equal(store.alerts.length, 1);
  assert.deepEqual(store.alerts[0]?.refinements.map((refinement) => refinement.refinedOnset), [101, 104]);
});

test("a refinement before its alert is joined with it", () => {
  const store = new Store();
  const refinement = { feed: "west", track_id: 7, onset_timestamp: 101, refined_onset_timestamp: 99, hindsight_seconds: 2 };
  send(store, "refinement", refinement);
  assert.equal(store.alerts[0]?.probability, null);
  send(store, "alert", { ...ALERT, degraded: true });
  assert.equal(store.alerts.length, 1);
  assert.equal(store.alerts[0]?.probability, 0.7);
  assert.equal(store.alerts[0]?.degraded, true);
  assert.equal(store.alerts[0]?.refinements.length, 1);
});

test("the oldest alerts are dropped beyond the bound", () => {
  const store = new Store();
  for (let id = 0; id <= MOST_ALERTS; id++) send(store, "alert", { ...ALERT, track_id: id });
  assert.equal(store.alerts.length, MOST_ALERTS);
  assert.equal(store.alerts.at(-1)?.trackId, 1);
});

test("a whole track replaces an earlier answer of the same track", () => {
  const store = new Store();
  const whole = {
    feed: "score",
    track_id: 9,
    timestamp: [1, 2],
    latitude: [0, 1],
    longitude: [5, 6],
    altitude: [80_000, 70_000],
    probability: [0.2, 0.9],
    phase: [0, 1],
    onset_timestamp: 2,
    model_version: "4",
    degraded: true,
  };
  send(store, "track", { ...whole, timestamp: [1, 3] });
  send(store, "track", whole);
  const track = store.tracks.get("9@score");
  assert.deepEqual(track?.timestamp, [1, 2]);
  assert.deepEqual(track?.reentry, [false, true]);
  assert.equal(track?.onset, 2);
  assert.equal(track?.degraded, true);
});

test("lost and unreadable events are counted until their notice is closed", () => {
  const store = new Store();
  send(store, "lost", { count: 4 });
  send(store, "lost", { count: 3 });
  store.take({ event: "alert", data: "{" });
  update(store, {}, { latitude: 91 });
  send(store, "update", { feed: "west", tracks: "none" });
  send(store, "other", {});
  assert.deepEqual([store.lost, store.unreadable, store.tracks.size], [7, 3, 1]);
  store.clearNotices();
  assert.deepEqual([store.lost, store.unreadable], [0, 0]);
});

test("a track without an answer for a minute is silent", () => {
  const store = new Store(() => 1000);
  update(store, {});
  const track = store.tracks.get("7@west");
  assert.ok(track);
  assert.deepEqual([isSilent(track, 1000 + SILENT_AFTER - 1), isSilent(track, 1000 + SILENT_AFTER)], [false, true]);
});
