/**
 * A client of Ringback, on fetch and Web Crypto alone: Node.js 20 or newer, Deno, Bun, browsers.
 *
 *     const client = new Client("https://ringback.example.com", { key: "rbk_…" });
 *     const done = await client.sync({ text: "hello" });
 *     const accepted = await client.enqueue({ text: "hello" }, { callback_url: "https://hooks.example.com/ringback" });
 *     for await (const request of client.follow(accepted.id)) console.log(request.status);
 *
 * verify checks callbacks. The types are as in openapi.yaml.
 */

/** The calls of Client, by the operations of openapi.yaml. */
export const operations = {
  doSync: ["POST", "/sync"],
  doSyncByName: ["POST", "/sync/{work}"],
  doAsync: ["POST", "/async"],
  doAsyncByName: ["POST", "/async/{work}"],
  doAsyncBatch: ["POST", "/async/batch"],
  listWorks: ["GET", "/works"],
  listRequests: ["GET", "/requests"],
  getRequest: ["GET", "/requests/{id}"],
  cancelRequest: ["POST", "/requests/{id}/cancel"],
  redeliverRequest: ["POST", "/requests/{id}/redeliver"],
  discardRequest: ["POST", "/requests/{id}/discard"],
  redeliver: ["POST", "/redeliveries"],
  discard: ["POST", "/discards"],
} as const;

export type JSONValue = null | boolean | number | string | JSONValue[] | { [name: string]: JSONValue };
export type Mode = "sync" | "async";
export type Status = "accepted" | "succeeded" | "failed" | "expired" | "cancelled";
export type CallbackState = "waiting" | "pending" | "delivered" | "dead" | "cancelled";

/** A request as lists show it. Times are RFC 3339. */
export interface Request {
  id: string;
  mode: Mode;
  work?: string;
  status: Status;
  callback_url?: string;
  callback_state?: CallbackState;
  ordering_key?: string;
  sequence?: number;
  traceparent?: string;
  accepted_at: string;
  started_at?: string;
  finished_at?: string;
  settled_at?: string;
  run_at?: string;
  expires_at?: string;
  redelivered_at?: string;
}

export interface WorkError {
  code: string;
  message: string;
}

/** A request as its callback carries it. */
export interface EndedRequest<Result = JSONValue> extends Request {
  result?: Result;
  error?: WorkError;
}

export interface WholeRequest<Result = JSONValue> extends EndedRequest<Result> {
  input: JSONValue;
  callback_waits_for?: string;
  callback_due_at?: string;
  attempts: { attempt: number; at: string; outcome: string; http_status?: number; next_attempt_at?: string }[];
  timeline: { at: string; event: string }[];
}

export interface Accepted {
  id: string;
  status: "accepted";
  accepted_at: string;
}

export interface Callback<Result = JSONValue> {
  type: "request.succeeded" | "request.failed" | "request.expired";
  timestamp: string;
  data: EndedRequest<Result>;
}

export interface ProblemBody {
  type: string;
  title: string;
  status: number;
  detail: string;
  errors?: { pointer?: string; parameter?: string; detail: string }[];
  "violated-policies"?: string[];
}

/** The fields of POST /async besides the input. */
export interface AsyncFields {
  callback_url?: string;
  callback?: { url: string; headers?: Record<string, string> };
  delay?: number;
  run_at?: string;
  expires_in?: number;
  ordering_key?: string;
}

export interface Selection {
  callback_host?: string;
  from?: string;
  to?: string;
}

export interface CallOptions {
  work?: string;
  idempotencyKey?: string;
}

export interface Works {
  default: string;
  works: { name: string; schema?: JSONValue; timeout_ms: number; limit?: number; retries: number; deterministic: boolean }[];
}

export interface Redeliveries {
  matched: number;
  redelivered: number;
  refused?: { count: number; problem: ProblemBody }[];
  more: boolean;
  next_cursor?: string;
}

export interface Discards {
  matched: number;
  discarded: number;
  more: boolean;
  next_cursor?: string;
}

/** An answer that is not 2xx (RFC 9457). */
export class Problem extends Error {
  readonly status: number;
  readonly body: ProblemBody;
  /** Seconds to wait before trying again, where the service says. */
  readonly retryAfter: number | undefined;
  /** The address of the request that failed, if it was recorded. */
  readonly location: string | undefined;

  constructor(status: number, body: ProblemBody, headers: Headers) {
    super(`${status} ${body.type}: ${body.detail}`);
    this.name = "Problem";
    this.status = status;
    this.body = body;
    this.retryAfter = headers.has("Retry-After") ? Number(headers.get("Retry-After")) : undefined;
    this.location = headers.get("Location") ?? undefined;
  }
}

export interface Options {
  key?: string;
  /** Milliseconds for a call. */
  timeout?: number;
  /** How often a call is tried again that was refused with 429 or 503, or got no answer. */
  retries?: number;
}

interface Call {
  path?: Record<string, string>;
  query?: Record<string, string>;
  body?: unknown;
  headers?: Record<string, string>;
}

/**
 * Calls one service. Only safe calls are tried again: reads, and calls with an
 * Idempotency-Key, which sync and enqueue make where they are given none.
 */
export class Client {
  private readonly url: string;
  private readonly options: Options;

  constructor(url: string, options: Options = {}) {
    this.url = url.replace(/\/+$/, "");
    this.options = options;
  }

  /** Does the work and returns the request with its result. */
  sync<Result = JSONValue>(input: JSONValue, options: CallOptions = {}): Promise<Request & { result: Result }> {
    return this.work("Sync", { input }, options);
  }

  /** Has a request accepted. */
  enqueue(input: JSONValue, fields: AsyncFields, options: CallOptions = {}): Promise<Accepted> {
    return this.work("Async", { input, ...fields }, options);
  }

  /** Has a request accepted, and returns the whole request where its work ends within so many seconds, at most 60. */
  enqueueAndWait<Result = JSONValue>(
    input: JSONValue, fields: AsyncFields, seconds: number, options: CallOptions = {},
  ): Promise<Accepted | WholeRequest<Result>> {
    return this.work("Async", { input, ...fields }, options, preferring(seconds));
  }

  /** Has up to 1,000 requests accepted; returns an answer for each, in order. */
  async enqueueBatch(
    requests: (AsyncFields & { input: JSONValue; work?: string; idempotency_key?: string })[],
  ): Promise<{ request?: Accepted; problem?: ProblemBody }[]> {
    const answer = await this.call<{ requests: { request?: Accepted; problem?: ProblemBody }[] }>("doAsyncBatch", { body: { requests } });
    return answer.requests;
  }

  /** Lists the kinds of work. */
  works(): Promise<Works> {
    return this.call("listWorks");
  }

  /** Returns a whole request, after its work has ended or so many seconds. */
  get<Result = JSONValue>(id: string, seconds?: number): Promise<WholeRequest<Result>> {
    return this.call("getRequest", { path: { id }, headers: preferring(seconds) });
  }

  /** Yields the requests that match, newest first, from all pages. */
  async *list(
    filter: Selection & { mode?: Mode; status?: Status; work?: string; callback?: CallbackState; limit?: number } = {},
  ): AsyncGenerator<Request> {
    const query: Record<string, string> = {};
    for (const [name, value] of Object.entries(filter)) if (value !== undefined) query[name] = String(value);
    for (;;) {
      const page = await this.call<{ requests: Request[]; next_cursor?: string }>("listRequests", { query });
      yield* page.requests;
      if (page.next_cursor === undefined) return;
      query["cursor"] = page.next_cursor;
    }
  }

  /** Yields a request each time that it has changed, until its callback has ended. */
  async *follow<Result = JSONValue>(id: string, every = 1000): AsyncGenerator<WholeRequest<Result>> {
    let seen = "";
    for (;;) {
      const request = await this.get<Result>(id, seen === "" ? undefined : 30);
      const state = `${request.status} ${request.callback_state} ${request.attempts.length}`;
      if (state !== seen) yield request;
      seen = state;
      if (request.status === "accepted") continue; // the call waits
      if (request.callback_state !== "waiting" && request.callback_state !== "pending") return;
      await pause(every);
    }
  }

  /** Stops the steps that have not ended. */
  cancel(id: string): Promise<{ request: WholeRequest; stopped: ("work" | "callback")[] }> {
    return this.call("cancelRequest", { path: { id } });
  }

  /** Sends a callback again that is dead or delivered. */
  redeliver(id: string): Promise<WholeRequest> {
    return this.call("redeliverRequest", { path: { id } });
  }

  /** Gives a dead letter up. */
  discard(id: string): Promise<WholeRequest> {
    return this.call("discardRequest", { path: { id } });
  }

  /** Sends many callbacks again, a thousand a call. */
  redeliverAll(
    filter: Selection & { callback_state?: "dead" | "delivered" } = {}, fields: { rate?: number; dry_run?: boolean; cursor?: string } = {},
  ): Promise<Redeliveries> {
    return this.call("redeliver", { body: { filter, ...fields } });
  }

  /** Gives many dead letters up, a thousand a call; {} picks all. */
  discardAll(filter: Selection, fields: { dry_run?: boolean; cursor?: string } = {}): Promise<Discards> {
    return this.call("discard", { body: { filter, ...fields } });
  }

  private work<Answer>(mode: "Sync" | "Async", body: unknown, options: CallOptions, headers: Record<string, string> = {}): Promise<Answer> {
    const keyed = { "Idempotency-Key": options.idempotencyKey ?? crypto.randomUUID(), ...headers };
    return options.work === undefined
      ? this.call(`do${mode}`, { body, headers: keyed })
      : this.call(`do${mode}ByName`, { path: { work: options.work }, body, headers: keyed });
  }

  private async call<Answer>(operation: keyof typeof operations, call: Call = {}): Promise<Answer> {
    const [method, template] = operations[operation];
    const path = template.replace(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(call.path?.[name] ?? ""));
    const query = call.query === undefined ? "" : "?" + new URLSearchParams(call.query);
    const headers = new Headers(call.headers);
    if (this.options.key !== undefined) headers.set("Authorization", `Bearer ${this.options.key}`);
    if (call.body !== undefined) headers.set("Content-Type", "application/json");
    const body = call.body === undefined ? null : JSON.stringify(call.body);
    const safe = method === "GET" || headers.has("Idempotency-Key");
    for (let left = safe ? (this.options.retries ?? 3) : 0; ; left--) {
      const signal = AbortSignal.timeout(this.options.timeout ?? 70_000);
      let delay = 1;
      try {
        const answer = await fetch(this.url + path + query, { method, headers, body, signal });
        if (answer.ok) return (await answer.json()) as Answer;
        const problem = await problemOf(answer);
        if (left === 0 || (problem.status !== 429 && problem.status !== 503)) throw problem;
        delay = problem.retryAfter ?? 1;
      } catch (error) {
        if (left === 0 || error instanceof Problem) throw error;
      }
      await pause(delay * 1000);
    }
  }
}

async function problemOf(answer: Response): Promise<Problem> {
  const text = await answer.text();
  let body: ProblemBody = { type: "about:blank", title: answer.statusText, status: answer.status, detail: text };
  if (answer.headers.get("Content-Type")?.startsWith("application/problem+json")) body = JSON.parse(text) as ProblemBody;
  return new Problem(answer.status, body, answer.headers);
}

function preferring(seconds?: number): Record<string, string> {
  return seconds === undefined ? {} : { Prefer: `wait=${seconds}` };
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** A callback that is not to be trusted. */
export class VerificationError extends Error {
  override readonly name = "VerificationError";
}

/**
 * Returns the content of a callback, once its signature is right (Standard Webhooks), and
 * otherwise throws a VerificationError. A receiver also drops a webhook-id that it has
 * seen.
 *
 * @param secret of the client, with whsec_
 * @param headers of the callback, in any letter case
 * @param body as it came, before anything is decoded
 */
export async function verify<Result = JSONValue>(
  secret: string,
  headers: Headers | Record<string, string | string[] | undefined>,
  body: string | Uint8Array,
  { tolerance = 300, now = Date.now() / 1000 }: { tolerance?: number; now?: number } = {},
): Promise<Callback<Result>> {
  const named = new Map<string, string>();
  for (const [name, value] of headers instanceof Headers ? headers.entries() : Object.entries(headers)) {
    if (value !== undefined) named.set(name.toLowerCase(), String(value));
  }
  const [id, timestamp, signatures] = ["id", "timestamp", "signature"].map((name) => {
    const value = named.get(`webhook-${name}`);
    if (value === undefined) throw new VerificationError(`the header webhook-${name} is missing`);
    return value;
  }) as [string, string, string];
  if (!/^\d+$/.test(timestamp) || Math.abs(now - Number(timestamp)) > tolerance) {
    throw new VerificationError("the timestamp is too far from now");
  }
  const content = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const head = new TextEncoder().encode(`${id}.${timestamp}.`);
  const signed = new Uint8Array(head.length + content.length);
  signed.set(head);
  signed.set(content, head.length);
  const key = await crypto.subtle.importKey("raw", bytesOf(secret.replace(/^whsec_/, "")), { name: "HMAC", hash: "SHA-256" }, false, ["verify"]);
  for (const signature of signatures.split(" ")) {
    if (!signature.startsWith("v1,")) continue;
    let bytes: Uint8Array<ArrayBuffer>;
    try {
      bytes = bytesOf(signature.slice(3));
    } catch {
      continue; // the next may match
    }
    if (await crypto.subtle.verify("HMAC", key, bytes, signed)) return JSON.parse(new TextDecoder().decode(content)) as Callback<Result>;
  }
  throw new VerificationError("no signature matches");
}

function bytesOf(base64: string): Uint8Array<ArrayBuffer> {
  let binary: string;
  try {
    binary = atob(base64);
  } catch {
    throw new VerificationError("that is not base64");
  }
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}
