import assert from "node:assert/strict";
import { test } from "node:test";
import { dateAndTime, kilometres, probability, signedSeconds, time, UNKNOWN } from "../src/format.ts";

test("times are written in UTC", () => {
  assert.equal(time(1731328263.5), "12:31:03.5");
  assert.equal(dateAndTime(1731328263.5), "2024-11-11 12:31:03");
});

test("what is unknown is a dash", () => {
  assert.deepEqual([time(null), time(1e300), kilometres(undefined), probability(null)], Array(4).fill(UNKNOWN));
});

test("numbers have the precision that an operator reads", () => {
  assert.deepEqual([kilometres(91_040), probability(0.618), signedSeconds(-2.5)], ["91.0", "0.62", "−2.5 s"]);
  assert.equal(kilometres(-3), "0.0", "the ground is not below zero");
});
