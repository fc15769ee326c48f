// Why an answer is not there, and the way on.

import { useEffect, useState } from "preact/hooks";
import { useApp, useAppState, useWords } from "../state";
import type { Turn } from "../types";
import { Icon } from "./icon";

export function FailureNote({ turn }: { turn: Turn }) {
  const app = useApp();
  const { isOffline } = useAppState();
  const words = useWords();
  const failure = turn.failure;
  const wait = useSecondsUntil(failure?.retryAt ?? 0);
  if (!failure) return null;
  const title = { network: words.unreachable, broken: words.broken, rate: words.tooMany, key: words.keyTitle, missing: "", refused: "" }[failure.kind];
  return (
    <div class="failure">
      <Icon name="warning" />
      <p role="alert">{title && <strong>{title}</strong>} {failure.message}</p>
      {!isOffline && ( // else the banner has this button, and this one would only fail again
        <button type="button" class="plain" disabled={wait > 0} onClick={() => void app.askAgain(turn)}>
          {wait > 0 ? `${words.retryIn} ${wait} s` : words.retry}
        </button>
      )}
    </div>
  );
}

function useSecondsUntil(time: number): number {
  const left = () => Math.max(0, Math.ceil((time - Date.now()) / 1000));
  const [seconds, setSeconds] = useState(left);
  useEffect(() => {
    setSeconds(left());
    if (left() === 0) return undefined;
    const timer = window.setInterval(() => {
      setSeconds(left());
      if (left() === 0) window.clearInterval(timer);
    }, 250);
    return () => window.clearInterval(timer);
  }, [time]);
  return seconds;
}
