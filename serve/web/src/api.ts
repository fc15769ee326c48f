// Calls of the server's public routes; every failure becomes an `ApiFailure` with what to do.

import { apiKey } from "./storage";
import type { Consent, ConversationSummary, Failure, Model, Settings } from "./types";

const TIMEOUT_MS = 20_000;
const EXPORT_TIMEOUT_MS = 300_000;
/** The server pings a silent stream every 15 s; after three missed pings it is gone. */
const STREAM_SILENCE_MS = 45_000;

export class ApiFailure extends Error {
  readonly kind: Failure["kind"];
  readonly retryAt: number;

  constructor(kind: Failure["kind"], message: string, retryAfterS = 0) {
    super(message);
    this.kind = kind;
    this.retryAt = Date.now() + retryAfterS * 1000;
  }
}

export function asFailure(error: unknown): Failure {
  if (error instanceof ApiFailure) return { kind: error.kind, message: error.message, retryAt: error.retryAt };
  return { kind: "refused", message: error instanceof Error ? error.message : String(error), retryAt: 0 };
}

function headers(): Record<string, string> {
  const key = apiKey.get();
  const json = { "content-type": "application/json" };
  return key ? { ...json, authorization: `Bearer ${key}` } : json;
}

async function send(path: string, init: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, headers: headers(), cache: "no-store" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiFailure("network", "");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer: Response): Promise<ApiFailure> {
  let message = `${answer.status} ${answer.statusText}`.trim();
  try {
    const body = (await answer.json()) as { error?: { message?: unknown } };
    if (typeof body.error?.message === "string") message = body.error.message;
  } catch {
    // Not an answer of this API, such as a proxy's page: its status has to do.
  }
  if (answer.status === 401) return new ApiFailure("key", message);
  if (answer.status === 404) return new ApiFailure("missing", message);
  const wait = Number(answer.headers.get("retry-after"));
  const waitS = Number.isFinite(wait) ? Math.max(0, wait) : 0;
  if (answer.status === 429 || answer.status === 503) return new ApiFailure("rate", message, waitS || 2);
  return new ApiFailure("refused", message);
}

async function json<T>(path: string, method = "GET", body?: object): Promise<T> {
  const signal = AbortSignal.timeout(TIMEOUT_MS);
  try {
    const answer = await send(path, body ? { method, signal, body: JSON.stringify(body) } : { method, signal });
    return (await answer.json()) as T;
  } catch (error) {
    if (error instanceof ApiFailure) throw error;
    throw new ApiFailure("network", "");
  }
}

export type StoredTurn = {
  id: string;
  siblings: string[];
  versions: string[][];
  model: string;
  human: string;
  moss: string;
  inner_thoughts: string | null;
  commands: { api: string; argument: string }[];
  results: { api: string; argument: string; text: string; ok: boolean }[];
  references: { number: number; title: string; text: string; source: string }[];
  images: string[];
  rating: number;
  created_at: string;
};

export type Conversation = { id: string; turns: StoredTurn[] };

const part = encodeURIComponent;

export const api = {
  settings: () => json<Settings>("/app/settings"),
  models: async (): Promise<Model[]> => {
    const list = await json<{ data: { id: string; moss: { quality_levels: number[] } }[] }>("/v1/models");
    return list.data.map(({ id, moss }) => ({ id, quality_levels: moss.quality_levels }));
  },
  conversations: (offset: number, limit: number) =>
    json<ConversationSummary[]>(`/app/conversations?offset=${offset}&limit=${limit}`),
  search: (query: string) => json<ConversationSummary[]>("/app/conversations/search", "POST", { query }),
  conversation: (id: string) => json<Conversation>(`/app/conversations/${part(id)}`),
  chooseBranch: (id: string, turn: string) =>
    json<Conversation>(`/app/conversations/${part(id)}/branch`, "PUT", { turn_id: turn }),
  rename: (id: string, title: string) => json<object>(`/app/conversations/${part(id)}`, "PATCH", { title }),
  remove: (id: string) => json<object>(`/app/conversations/${part(id)}`, "DELETE"),
  rate: (turn: string, rating: number, reason: string, comment: string) =>
    json<object>(`/app/turns/${part(turn)}/rating`, "POST", { rating, reason, comment }),
  consent: () => json<{ consent: Consent; version: number | null }>("/app/consent"),
  agree: (consent: Consent, version: number) => json<object>("/app/consent", "PUT", { consent, version }),
  exportAll: async (): Promise<string> => (await send("/app/export", { signal: AbortSignal.timeout(EXPORT_TIMEOUT_MS) })).text(),
  import: (conversations: unknown[]) =>
    json<{ conversation_ids: string[] }>("/app/import", "POST", { conversations }),
  removeAll: () => json<object>("/app/data", "DELETE"),
  isUp: async (): Promise<boolean> => json("/health").then(() => true, () => false),
};

export type StreamEvent =
  | { type: "model"; name: string }
  | { type: "text"; text: string }
  | { type: "thoughts"; text: string }
  | { type: "commands"; commands: { api: string; argument: string }[]; dropped: { api: string; argument: string }[] }
  | { type: "result"; api: string; argument: string; ok: boolean; text: string; seconds: number }
  | { type: "reference"; number: number; title: string; text: string; source: string }
  | { type: "image"; id: string }
  | { type: "done"; conversation_id: string; turn_id: string }
  | { type: "finish"; reason: string };

type Chunk = {
  error?: { message: string };
  model?: string;
  choices: { delta: { role?: string; content?: string; reasoning_content?: string; moss?: StreamEvent }; finish_reason: string | null }[];
};

/** Events of one streamed answer. A stream that ends without `[DONE]` broke off, and says so. */
export async function* streamAnswer(request: object, signal: AbortSignal): AsyncGenerator<StreamEvent> {
  const answer = await send("/v1/chat/completions", { method: "POST", signal, body: JSON.stringify(request) });
  if (!answer.body) throw new ApiFailure("broken", "");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await readWithin(reader, signal);
      if (done) throw new ApiFailure("broken", "");
      const lines = (pending + value).split("\n");
      pending = lines.pop() ?? "";
      for (const line of lines) {
        if (!line.startsWith("data: ")) continue; // a ping
        if (line === "data: [DONE]") return;
        yield* eventsOf(JSON.parse(line.slice(6)) as Chunk);
      }
    }
  } finally {
    reader.cancel().catch(() => undefined); // tells the server to stop, however the reading ended
  }
}

async function readWithin(
  reader: ReadableStreamDefaultReader<string>, signal: AbortSignal,
): Promise<ReadableStreamReadResult<string>> {
  let timer = 0;
  const silence = new Promise<never>((_, reject) => {
    timer = window.setTimeout(() => reject(new ApiFailure("broken", "")), STREAM_SILENCE_MS);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } catch (error) {
    if (signal.aborted || error instanceof ApiFailure) throw error;
    throw new ApiFailure("broken", "");
  } finally {
    window.clearTimeout(timer);
  }
}

function* eventsOf(chunk: Chunk): Generator<StreamEvent> {
  if (chunk.error) throw new ApiFailure("broken", chunk.error.message);
  const choice = chunk.choices[0];
  if (!choice) return;
  const { role, content, reasoning_content: thoughts, moss } = choice.delta;
  if (role) yield { type: "model", name: chunk.model ?? "" };
  if (thoughts) yield { type: "thoughts", text: thoughts };
  if (content) yield { type: "text", text: content };
  if (moss) yield moss;
  if (choice.finish_reason) yield { type: "finish", reason: choice.finish_reason };
}
