// One prompt and its answer.

import { Component, type VNode } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { Markdown } from "../markdown";
import { useApp, useWords } from "../state";
import type { Turn } from "../types";
import { IconButton } from "./button";
import { CopyButton } from "./copy_button";
import { FailureNote } from "./failure";
import { useFeedback } from "./feedback";
import { Icon } from "./icon";
import { Citation, Sources } from "./sources";
import { Steps } from "./steps";

type Props = { turn: Turn; isLast: boolean; isBusy: boolean; namesModel: boolean; language: string };

/** Drawn again only when something in it changed, so that a long conversation stays smooth. */
export class Exchange extends Component<Props> {
  override shouldComponentUpdate(next: Props): boolean {
    const { turn, isLast, isBusy, namesModel, language } = this.props;
    return turn !== next.turn || isLast !== next.isLast || isBusy !== next.isBusy || namesModel !== next.namesModel || language !== next.language;
  }

  override render(): VNode {
    const { turn } = this.props;
    return (
      <article class="exchange" data-turn={turn.key} data-status={turn.status}>
        <Prompt {...this.props} />
        <Answer {...this.props} />
      </article>
    );
  }
}

function Prompt({ turn, isBusy }: Props) {
  const app = useApp();
  const words = useWords();
  const [isEditing, setEditing] = useState(false);
  if (isEditing) {
    return (
      <EditPrompt
        text={turn.prompt} onCancel={() => setEditing(false)}
        onSend={(text) => { setEditing(false); void app.askAgain(turn, text); }}
      />
    );
  }
  return (
    <div class="prompt">
      <h2 class="sr-only">{words.you}</h2>
      <div class="bubble" dir="auto">{turn.prompt}</div>
      <div class="actions">
        <QuestionVersions turn={turn} isBusy={isBusy} />
        <IconButton icon="edit" label={words.editMessage} disabled={isBusy} onClick={() => setEditing(true)} />
        <CopyButton text={turn.prompt} label="copy" />
      </div>
    </div>
  );
}

function EditPrompt({ text, onSend, onCancel }: { text: string; onSend: (text: string) => void; onCancel: () => void }) {
  const words = useWords();
  const [draft, setDraft] = useState(text);
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => {
    area.current?.focus();
    area.current?.setSelectionRange(text.length, text.length);
  }, []);
  const send = () => { if (draft.trim()) onSend(draft.trim()); };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") onCancel();
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  };
  return (
    <form class="edit" onSubmit={(event) => { event.preventDefault(); send(); }}>
      <textarea
        ref={area} value={draft} rows={Math.min(10, draft.split("\n").length + 1)} aria-label={words.editMessage}
        maxLength={20_000} onInput={(event) => setDraft(event.currentTarget.value)} onKeyDown={onKeyDown}
      />
      <div class="row-end">
        <button type="button" class="plain" onClick={onCancel}>{words.cancel}</button>
        <button type="submit" class="primary" disabled={!draft.trim()}>{words.sendEdited}</button>
      </div>
    </form>
  );
}

/** Which wording of the question is shown; another one comes with its newest answer. */
function QuestionVersions({ turn, isBusy }: { turn: Turn; isBusy: boolean }) {
  const words = useWords();
  const at = turn.versions.findIndex((keys) => keys.includes(turn.key));
  return <Versions label={words.questionVersion} keys={turn.versions.map((keys) => keys.at(-1) ?? "")} at={at} isBusy={isBusy} />;
}

function AnswerVersions({ turn, isBusy }: { turn: Turn; isBusy: boolean }) {
  const words = useWords();
  const keys = turn.versions.find((group) => group.includes(turn.key)) ?? [];
  return <Versions label={words.answerVersion} keys={keys} at={keys.indexOf(turn.key)} isBusy={isBusy} />;
}

function Versions({ label, keys, at, isBusy }: { label: string; keys: readonly string[]; at: number; isBusy: boolean }) {
  const app = useApp();
  const words = useWords();
  if (keys.length < 2) return null;
  const go = async (to: number) => {
    const other = keys[to];
    if (!other) return;
    await app.showVersion(other);
    // The other version is another piece of the page: the focus goes on to its buttons.
    const again = `[data-turn="${other}"] .versions[aria-label="${label}"] button:enabled`;
    window.setTimeout(() => document.querySelector<HTMLElement>(again)?.focus(), 0);
  };
  return (
    <div class="versions" role="group" aria-label={label}>
      <IconButton icon="left" label={words.previousVersion} disabled={isBusy || at <= 0} onClick={() => void go(at - 1)} />
      <span aria-live="polite">{at + 1}/{keys.length}</span>
      <IconButton icon="chevron" label={words.nextVersion} disabled={isBusy || at >= keys.length - 1} onClick={() => void go(at + 1)} />
    </div>
  );
}

function Answer({ turn, isLast, isBusy, namesModel }: Props) {
  const words = useWords();
  return (
    <div class="answer">
      <h2 class="sr-only">{words.moss}</h2>
      <Steps turn={turn} />
      {turn.reply && (
        <div class="reply" aria-busy={turn.status === "running"}>
          <Markdown text={turn.reply} cite={(number) => <Citation turn={turn} number={number} />} />
        </div>
      )}
      <Pictures turn={turn} />
      <Sources turn={turn} />
      <FailureNote turn={turn} />
      {turn.status === "stopped" && <p class="note">{words.stopped}</p>}
      {turn.status === "done" && turn.wasCut && <p class="note">{words.cut}</p>}
      {turn.status !== "running" && <Actions turn={turn} isLast={isLast} isBusy={isBusy} namesModel={namesModel} />}
    </div>
  );
}

function Pictures({ turn }: { turn: Turn }) {
  const words = useWords();
  if (!turn.images.length) return null;
  return (
    <div class="pictures">
      {turn.images.map((id) => (
        <a key={id} href={`/app/images/${encodeURIComponent(id)}`} target="_blank" rel="noopener">
          <img src={`/app/images/${encodeURIComponent(id)}`} alt={`${words.imageAlt} ${turn.prompt}`} />
        </a>
      ))}
    </div>
  );
}

function Actions({ turn, isLast, isBusy, namesModel }: Omit<Props, "language">) {
  const app = useApp();
  const words = useWords();
  const { thumbs, form } = useFeedback(turn);
  const mayContinue = isLast && Boolean(turn.reply) && (turn.wasCut || turn.status === "stopped");
  return (
    <>
      <div class="actions">
        <AnswerVersions turn={turn} isBusy={isBusy} />
        {turn.reply && <CopyButton text={turn.reply} label="copy" />}
        {turn.isStored && thumbs}
        {!turn.failure && <IconButton icon="regenerate" label={words.regenerate} disabled={isBusy} onClick={() => void app.askAgain(turn)} />}
        {mayContinue && (
          <button type="button" class="plain small" disabled={isBusy} onClick={() => void app.continueAnswer(turn)}>
            <Icon name="continue" /> {words.continueAnswer}
          </button>
        )}
        {namesModel && turn.model && <span class="by"><span class="sr-only">{words.model}: </span>{turn.model}</span>}
      </div>
      {form}
    </>
  );
}
