// How a turn grows while its answer streams in, and what a stored turn looks like on the page.

import type { StoredTurn, StreamEvent } from "./api";
import type { Call, Failure, Turn } from "./types";

let count = 0;

/** A turn to be answered at the end of the conversation. */
export function newTurn(prompt: string, extraTool: string | null = null): Turn {
  count += 1;
  const key = `new-${count}`;
  return {
    key, isStored: false, versions: [[key]], extraTool, prompt, model: "", reply: "", thoughts: "", calls: [], references: [],
    images: [], status: "running", wasCut: false, failure: null, rating: 0, createdAt: new Date().toISOString(),
  };
}

/** A turn to be answered in the place of another one: to the same question, or to another wording of it. */
export function turnInstead(of: Turn, prompt: string): Turn {
  const isSame = prompt === of.prompt;
  const turn = newTurn(prompt, isSame ? of.extraTool : null);
  // A turn that was not stored leaves with the page's memory of it.
  const versions = of.versions.map((keys) => keys.filter((key) => of.isStored || key !== of.key));
  const at = isSame ? of.versions.findIndex((keys) => keys.includes(of.key)) : -1;
  const grown = at < 0 ? [...versions, [turn.key]] : versions.with(at, [...(versions[at] ?? []), turn.key]);
  return { ...turn, versions: grown.filter((keys) => keys.length) };
}

/** The turn after one more event. */
export function grow(turn: Turn, event: StreamEvent): Turn {
  switch (event.type) {
    case "model": return { ...turn, model: event.name };
    case "text": return { ...turn, reply: turn.reply + event.text };
    case "thoughts": return { ...turn, thoughts: turn.thoughts + event.text };
    case "commands": {
      const calls = event.commands.map((call) => started(call, "running"));
      const dropped = event.dropped.map((call) => started(call, "dropped"));
      return { ...turn, calls: [...turn.calls, ...calls, ...dropped] };
    }
    case "result": return { ...turn, calls: finished(turn.calls, event) };
    case "reference": {
      const { number, title, text, source } = event;
      return { ...turn, references: [...turn.references, { number, title, text, source }] };
    }
    case "image": return { ...turn, images: [...turn.images, event.id] };
    case "done": {
      if (!event.turn_id) return turn;
      const versions = turn.versions.map((keys) => keys.map((key) => (key === turn.key ? event.turn_id : key)));
      return { ...turn, key: event.turn_id, isStored: true, versions };
    }
    case "finish": return { ...turn, wasCut: event.reason === "length" };
  }
}

function started({ api, argument }: { api: string; argument: string }, state: "running" | "dropped"): Call {
  return { api, argument, state, text: "", seconds: null };
}

function finished(calls: readonly Call[], result: StreamEvent & { type: "result" }): Call[] {
  const { api, argument, ok, text, seconds } = result;
  const done: Call = { api, argument, state: ok ? "done" : "failed", text, seconds };
  const at = calls.findIndex((call) => call.state === "running" && call.api === api && call.argument === argument);
  return at < 0 ? [...calls, done] : calls.with(at, done);
}

export function fromStored(stored: StoredTurn): Turn {
  const calls = stored.results.map(({ api, argument, text, ok }): Call => ({
    api, argument, text, state: ok ? "done" : "failed", seconds: null,
  }));
  return {
    key: stored.id, isStored: true, versions: stored.versions, extraTool: null, prompt: stored.human, model: stored.model, reply: stored.moss,
    thoughts: stored.inner_thoughts ?? "", calls, references: stored.references, images: stored.images,
    status: "done", wasCut: false, failure: null, rating: stored.rating, createdAt: stored.created_at,
  };
}

/**
 * Where the last of `turns` goes in the server's record: at the end of the path that it shows, or
 * beside a turn that it has. Turns that were stopped or failed are not in that record.
 */
export function placeAmong(turns: readonly Turn[]): string | null {
  const next = turns[turns.findLastIndex((turn) => turn.isStored) + 1];
  return next?.versions.flat().find((key) => key !== next.key) ?? null;
}

/** The turn once its stream has ended, one way or another. */
export function ended(turn: Turn, failure: Failure | null, wasStopped: boolean): Turn {
  if (turn.isStored && (wasStopped || !failure)) return { ...turn, status: "done" };
  const calls = turn.calls.map((call) => (call.state === "running" ? { ...call, state: "failed" as const } : call));
  if (wasStopped) return { ...turn, calls, status: "stopped" };
  return failure ? { ...turn, calls, status: "failed", failure } : { ...turn, status: "done" };
}
