// What happened before the reply: thoughts, and each tool call with its state and result.

import { useEffect, useState } from "preact/hooks";
import { useWords } from "../state";
import type { Call, Turn } from "../types";
import { nameOfApi, type Words } from "../words";
import { Icon, iconOfApi, type IconName } from "./icon";

const SHOW_TIME_AFTER_S = 5;
const LONG_AFTER_S = 30;

export function Steps({ turn }: { turn: Turn }) {
  const words = useWords();
  const isWaiting = turn.status === "running" && !turn.reply && !turn.calls.some((call) => call.state === "running");
  if (!turn.thoughts && !turn.calls.length && !isWaiting) return null;
  return (
    <>
      {(turn.thoughts || turn.calls.length > 0) && (
        <ol class="steps" aria-label={words.tools}>
          {turn.thoughts && <Thoughts text={turn.thoughts} />}
          {turn.calls.map((call, index) => <CallStep key={index} call={call} turn={turn} />)}
        </ol>
      )}
      {isWaiting && <Waiting since={turn.createdAt} />}
    </>
  );
}

/** How long an answer that shows nothing new has been on its way, once that is worth a word. */
function Waiting({ since }: { since: string }) {
  const words = useWords();
  const elapsed = () => Math.floor((Date.now() - Date.parse(since)) / 1000);
  const [passed, setPassed] = useState(elapsed);
  useEffect(() => {
    const timer = window.setInterval(() => setPassed(elapsed()), 1000);
    return () => window.clearInterval(timer);
  }, [since]);
  return (
    <p class="waiting">
      <span class="dots" aria-hidden="true"><i /><i /><i /></span> {words.thinking}
      {passed >= SHOW_TIME_AFTER_S && <span class="seconds">{passed} s</span>}
      {passed >= LONG_AFTER_S && <span>{words.takesLong}</span>}
    </p>
  );
}

function Thoughts({ text }: { text: string }) {
  const words = useWords();
  return (
    <Step class="is-thoughts" icon="thoughts" title={<span>{words.thoughts}</span>}>
      <p class="step-text">{text}</p>
    </Step>
  );
}

function CallStep({ call, turn }: { call: Call; turn: Turn }) {
  const words = useWords();
  const state = { running: words.running, done: words.finished, failed: words.noResult, dropped: words.dropped }[call.state];
  const value = shortValue(call, turn, words);
  const mark: IconName | null = { running: null, done: "check", failed: "cross", dropped: "blocked" }[call.state] as IconName | null;
  const title = (
    <>
      <code class="call">{nameOfApi(call.api, words)}<span class="call-argument">({quoted(call.argument)})</span></code>
      {value && <span class="value">{value}</span>}
      <span class="step-state">
        {call.seconds !== null && <span class="seconds">{seconds(call.seconds)}</span>}
        {call.state === "running" ? <span class="spinner" aria-hidden="true" /> : mark && <Icon name={mark} />}
        <span class={call.state === "running" || call.state === "dropped" ? "" : "sr-only"}>{state}</span>
      </span>
    </>
  );
  const text = resultText(call, words);
  const body = text ? <pre class="step-text" tabIndex={0}>{text}</pre> : null;
  return <Step class={`is-${call.state}`} icon={iconOfApi(call.api)} title={title}>{body}</Step>;
}

type StepProps = { class: string; icon: IconName; title: preact.ComponentChildren; children: preact.ComponentChildren };

function Step({ class: extra, icon, title, children }: StepProps) {
  const [isOpen, setOpen] = useState(false);
  if (!children) {
    return <li class={`step ${extra}`}><div class="step-head"><Icon name={icon} />{title}</div></li>;
  }
  return (
    <li class={`step ${extra}`}>
      <button type="button" class="step-head" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
        <Icon name={icon} />{title}<span class="chevron"><Icon name="chevron" /></span>
      </button>
      {isOpen && <div class="step-body">{children}</div>}
    </li>
  );
}

const quoted = (argument: string) => JSON.stringify(argument);
const seconds = (value: number) => (value < 0.1 ? `${Math.max(1, Math.round(value * 1000))} ms` : `${value.toFixed(1)} s`);

/** What the model read, which for a picture is one fixed English sentence. */
function resultText(call: Call, words: Words): string {
  return call.api === "Text2Image" && call.state === "done" ? words.imageDrawn : call.text;
}

/** A result that fits the line; searches say how many sources they found. */
function shortValue(call: Call, turn: Turn, words: Words): string {
  if (call.state !== "done") return "";
  if (call.api === "Search") {
    const found = call.text.match(/^<\|\d+\|>/gm)?.length ?? turn.references.length;
    return found ? `${found} ${found === 1 ? words.sourceFound : words.sourcesFound}` : "";
  }
  const value = resultText(call, words).replace(/^'(.*)'$/s, "$1").trim();
  return value.length <= 48 && !value.includes("\n") ? value : "";
}
