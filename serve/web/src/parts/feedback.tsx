// Thumbs, and why: the rating counts at once, reasons may follow.

import { useState } from "preact/hooks";
import { useApp, useWords } from "../state";
import type { Turn } from "../types";
import { REASONS } from "../words";
import { IconButton } from "./button";

type Kind = "good" | "bad";

/** The thumbs and, while it is open, the form to ask for reasons in. */
export function useFeedback(turn: Turn) {
  const app = useApp();
  const words = useWords();
  const [asking, setAsking] = useState<Kind | null>(null);
  const press = (kind: Kind) => {
    const rating = kind === "good" ? 1 : -1;
    const isTakenBack = turn.rating === rating;
    setAsking(isTakenBack ? null : kind);
    void app.rate(turn, isTakenBack ? 0 : rating);
  };
  const thumb = (kind: Kind, value: number) => (
    <IconButton icon={kind} label={words[kind]} aria-pressed={turn.rating === value} onClick={() => press(kind)} />
  );
  const thumbs = <>{thumb("good", 1)}{thumb("bad", -1)}</>;
  const form = asking && <Reasons key={asking} kind={asking} turn={turn} onClose={() => setAsking(null)} />;
  return { thumbs, form };
}

function Reasons({ kind, turn, onClose }: { kind: Kind; turn: Turn; onClose: () => void }) {
  const app = useApp();
  const words = useWords();
  const [chosen, setChosen] = useState<readonly string[]>([]);
  const [text, setText] = useState("");
  const toggle = (code: string) =>
    setChosen(chosen.includes(code) ? chosen.filter((item) => item !== code) : [...chosen, code]);
  const send = (event: Event) => {
    event.preventDefault();
    void app.rate(turn, kind === "good" ? 1 : -1, chosen.join(","), text.trim());
    app.set({ announcement: words.feedbackThanks });
    onClose();
  };
  return (
    <form class="feedback" onSubmit={send} onKeyDown={(event) => { if (event.key === "Escape") onClose(); }}>
      <fieldset>
        <legend>{kind === "good" ? words.whatWasGood : words.whatWasBad}</legend>
        <div class="reasons">
          {REASONS[kind].map((reason) => (
            <button
              key={reason.code} type="button" class="chip" aria-pressed={chosen.includes(reason.code)}
              onClick={() => toggle(reason.code)}
            >
              {reason[app.state.preferences.language]}
            </button>
          ))}
        </div>
      </fieldset>
      <input
        type="text" maxLength={4000} value={text} placeholder={words.tellMore} aria-label={words.tellMore}
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <div class="row-end">
        <button type="button" class="plain" onClick={onClose}>{words.cancel}</button>
        <button type="submit" class="primary" disabled={!chosen.length && !text.trim()}>{words.sendFeedback}</button>
      </div>
    </form>
  );
}
