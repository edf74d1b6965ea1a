import assert from "node:assert/strict";
import { test } from "node:test";
import { type Message, SseParser } from "../src/sse.ts";

function parse(...pieces: string[]): { messages: Message[]; parser: SseParser } {
  const messages: Message[] = [];
  const parser = new SseParser((message) => messages.push(message));
  for (const piece of pieces) parser.push(piece);
  return { messages, parser };
}

test("an event has a name, data and an id", () => {
  const { messages, parser } = parse('retry: 1000\n\nid: 12\nevent: alert\ndata: {"track_id": 7}\n\n');
  assert.deepEqual(messages, [{ event: "alert", data: '{"track_id": 7}' }]);
  assert.equal(parser.lastEventId, "12");
  assert.equal(parser.retry, 1000);
});

const STREAM = ': keep-alive\r\n\r\nid: 1\r\nevent: alert\r\ndata: a\r\ndata:b\r\n\r\ndata:  c\n\nid:2\rdata: d\r\r';

test("every split of a stream into two pieces gives the same events", () => {
  const expected = [
    { event: "alert", data: "a\nb" },
    { event: "message", data: " c" },
    { event: "message", data: "d" },
  ];
  for (let split = 0; split <= STREAM.length; split++) {
    const { messages, parser } = parse(STREAM.slice(0, split), STREAM.slice(split), "\n");
    assert.deepEqual(messages, expected, `split at ${split}`);
    assert.equal(parser.lastEventId, "2");
  }
});

test("an event without an id keeps the id of the event before it", () => {
  assert.equal(parse("id: 5\ndata: a\n\nevent: update\ndata: b\n\n").parser.lastEventId, "5");
});

test("an incomplete event does not count as taken", () => {
  const { messages, parser } = parse("id: 5\ndata: a\n\nid: 6\ndata: b\n");
  assert.equal(parser.lastEventId, "5");
  parser.reset();
  parser.push("id: 6\ndata: b\n\n");
  assert.deepEqual(messages.map((message) => message.data), ["a", "b"]);
  assert.equal(parser.lastEventId, "6");
});

test("comments and fields of other names are left out", () => {
  assert.deepEqual(parse(": x\nother: y\ndata\ndata: z\n\n").messages, [{ event: "message", data: "\nz" }]);
});
