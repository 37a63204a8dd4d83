// Runs against the service at RINGBACK_URL, in local mode.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";

import { Client, Problem, VerificationError, operations, verify } from "./ringback.ts";
import type { Callback, WholeRequest } from "./ringback.ts";

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"; // of local mode
const url = process.env["RINGBACK_URL"] ?? "http://127.0.0.1:8080";
const client = new Client(url);

interface Fingerprint {
  sha256: string;
  words: number;
}

/** Takes one callback, verified. */
async function receive(): Promise<{ url: string; callback: Promise<{ id: string; callback: Callback<Fingerprint> }>; close: () => void }> {
  let take: (taken: { id: string; callback: Callback<Fingerprint> }) => void;
  let refuse: (error: unknown) => void;
  const callback = new Promise<{ id: string; callback: Callback<Fingerprint> }>((resolve, reject) => ([take, refuse] = [resolve, reject]));
  const server = createServer((call, answer) => {
    const parts: Buffer[] = [];
    call.on("data", (part: Buffer) => parts.push(part));
    call.on("end", () => {
      verify<Fingerprint>(secret, call.headers, Buffer.concat(parts)).then(
        (callback) => {
          answer.writeHead(204).end();
          take({ id: String(call.headers["webhook-id"]), callback });
        },
        (error: unknown) => {
          answer.writeHead(401).end();
          refuse(error);
        },
      );
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = (): void => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`, callback, close };
}

test("operations are as in the document", async () => {
  const document = (await (await fetch(url + "/openapi.json")).json()) as {
    paths: Record<string, Record<string, { operationId: string; tags: string[] }>>;
  };
  const described: Record<string, [string, string]> = {};
  for (const [path, item] of Object.entries(document.paths)) {
    for (const [method, operation] of Object.entries(item)) {
      if (operation.tags[0] !== "Service") described[operation.operationId] = [method.toUpperCase(), path];
    }
  }
  assert.deepEqual(described, operations);
});

test("sync answers with the result", async () => {
  const done = await client.sync<Fingerprint>({ text: "hello" });
  assert.equal(done.status, "succeeded");
  assert.equal(done.result.words, 1);
  const { default: work } = await client.works();
  assert.deepEqual((await client.sync<Fingerprint>({ text: "hello" }, { work })).result, done.result);
});

test("a key repeats the answer", async () => {
  const options = { idempotencyKey: "typescript-once" };
  assert.deepEqual(await client.sync({ text: "hello" }, options), await client.sync({ text: "hello" }, options));
});

test("async is followed until its callback is delivered", async () => {
  const receiver = await receive();
  try {
    const accepted = await client.enqueue({ text: "hello" }, { callback_url: receiver.url, ordering_key: "typescript" });
    let last: WholeRequest<Fingerprint> | undefined;
    for await (last of client.follow<Fingerprint>(accepted.id, 50));
    assert.equal(last?.status, "succeeded");
    assert.equal(last.callback_state, "delivered");
    const { id, callback } = await receiver.callback;
    assert.equal(id, "req_" + accepted.id);
    assert.equal(callback.type, "request.succeeded");
    assert.deepEqual(callback.data.result, last.result);
    const listed: string[] = [];
    for await (const request of client.list({ mode: "async", limit: 1 })) listed.push(request.id);
    assert.ok(listed.includes(accepted.id));
  } finally {
    receiver.close();
  }
});

test("a batch is accepted in part, and cancelled", async () => {
  const [first, second] = await client.enqueueBatch([
    { input: { text: "hello" }, callback_url: "http://127.0.0.1:9/", delay: 3600 },
    { input: { text: "" }, callback_url: "http://127.0.0.1:9/" },
  ]);
  assert.equal(second?.problem?.type, "/problems/invalid-input");
  const cancelled = await client.cancel(first?.request?.id ?? "");
  assert.equal(cancelled.request.status, "cancelled");
  assert.deepEqual(cancelled.stopped, ["work", "callback"]);
});

test("mistakes are problems", async () => {
  await assert.rejects(client.sync({ text: "" }), (error) => {
    assert.ok(error instanceof Problem);
    assert.equal(error.status, 422);
    assert.equal(error.body.type, "/problems/invalid-input");
    assert.equal(error.body.errors?.[0]?.pointer, "#/input/text");
    return true;
  });
});

// The vector that Standard Webhooks publishes.
const body = '{"test": 2432232314}';
const now = 1614265330;
const headers = {
  "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
  "Webhook-Timestamp": String(now),
  "Webhook-Signature": "v1,bm9wZQ== v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
};

test("verify takes a right signature", async () => {
  assert.deepEqual(await verify(secret, headers, body, { now }), { test: 2432232314 });
  assert.deepEqual(await verify(secret, new Headers(headers), new TextEncoder().encode(body), { now: now + 300 }), { test: 2432232314 });
});

test("verify refuses wrong signatures", async () => {
  for (const refused of [
    () => verify(secret, headers, body, { now: now + 301 }),
    () => verify(secret, headers, body, { now: now - 301 }),
    () => verify("whsec_" + "A".repeat(32), headers, body, { now }),
    () => verify("whsec_?", headers, body, { now }),
    () => verify(secret, { ...headers, "Webhook-Id": "msg_other" }, body, { now }),
    () => verify(secret, { ...headers, "Webhook-Timestamp": "soon" }, body, { now }),
    () => verify(secret, { ...headers, "Webhook-Signature": "v1,g0hM9SsE v1,?" }, body, { now }),
    () => verify(secret, headers, body + " ", { now }),
    () => verify(secret, {}, body, { now }),
  ]) {
    await assert.rejects(refused, VerificationError);
  }
});
