import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { Connection, type ConnectionState } from "../src/connection.ts";

type Handler = (request: IncomingMessage, response: ServerResponse, attempt: number) => void;

/** Connect to a server of this process, and return once `until` holds for the data and states so far. */
async function connect(handler: Handler, until: (data: string[], states: ConnectionState[]) => boolean) {
  const requests: IncomingMessage[] = [];
  const server: Server = createServer((request, response) => {
    requests.push(request);
    handler(request, response, requests.length);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const data: string[] = [];
  const states: ConnectionState[] = [];
  await new Promise<void>((resolve) => {
    const check = () => {
      if (!until(data, states)) return;
      connection.close();
      resolve();
    };
    const connection = new Connection({
      key: "rk_1_secret",
      url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/events`,
      onMessage: (message) => (data.push(message.data), check()),
      onState: (state) => (states.push(state), queueMicrotask(check)),
    });
  });
  server.closeAllConnections();
  server.close();
  return { requests, data, states };
}

function stream(response: ServerResponse, text: string): void {
  response.writeHead(200, { "Content-Type": "text/event-stream" });
  response.write(text);
}

test("the key is a header and not part of the address", async () => {
  const { requests, data } = await connect(
    (_, response) => stream(response, "data: a\n\n"),
    (data) => data.length === 1,
  );
  assert.deepEqual(data, ["a"]);
  assert.equal(requests[0]?.url, "/v1/events");
  assert.equal(requests[0]?.headers.authorization, "Bearer rk_1_secret");
  assert.equal(requests[0]?.headers["last-event-id"], undefined);
});

test("a reconnect asks for the events after the latest complete one", async () => {
  const { requests, data, states } = await connect(
    (_, response, attempt) => {
      stream(response, attempt === 1 ? "retry: 1\n\nid: 8\ndata: a\n\nid: 9\ndata: b" : "id: 9\ndata: b\n\n");
      if (attempt === 1) response.end();
    },
    (data) => data.length === 2,
  );
  assert.deepEqual(data, ["a", "b"]);
  assert.equal(requests[1]?.headers["last-event-id"], "8");
  assert.deepEqual(states.map((state) => state.kind), ["connecting", "live", "waiting", "connecting", "live"]);
});

test("a refused key ends the attempts and gives the server's reason", async () => {
  const problem = { title: "Unauthorized", detail: "The key is expired.", fix: "Ask for a new key." };
  const { requests, states } = await connect(
    (_, response) => response.writeHead(401, { "Content-Type": "application/problem+json" }).end(JSON.stringify(problem)),
    (_, states) => states.at(-1)?.kind === "refused",
  );
  assert.equal(requests.length, 1);
  assert.deepEqual(states.at(-1), { kind: "refused", reason: "The key is expired. Ask for a new key." });
});

test("a server that is busy is asked again after the pause that it names", async () => {
  const { states } = await connect(
    (_, response) => response.writeHead(503, { "Retry-After": "7" }).end("<h1>busy</h1>"),
    (_, states) => states.at(-1)?.kind === "waiting",
  );
  const state = states.at(-1);
  assert.ok(state?.kind === "waiting");
  assert.equal(state.reason, "The server answered 503 Service Unavailable.");
  assert.ok(state.until - Date.now() > 5000);
});
