// The open conversation, which keeps to its end while an answer grows unless the reader scrolled up.

import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { addressed } from "../address";
import { useApp, useAppState, useWords } from "../state";
import type { Turn } from "../types";
import { IconButton } from "./button";
import { Exchange } from "./exchange";
import { Welcome } from "./welcome";

const NEAR_PX = 80;

/** A turn's place among its versions; unlike its key it stays when the server has stored it. */
const versionOf = (turn: Turn) => turn.versions.flat().indexOf(turn.key);

export function ConversationView() {
  const app = useApp();
  const { turns, running, conversation, models, preferences } = useAppState();
  const words = useWords();
  const view = useRef<HTMLDivElement>(null);
  const [isAtEnd, setAtEnd] = useState(true);

  const toEnd = () => view.current?.scrollTo({ top: turns.length ? view.current.scrollHeight : 0 });
  useLayoutEffect(() => { if (isAtEnd) toEnd(); });
  useEffect(() => { setAtEnd(true); toEnd(); }, [conversation, turns.length]);
  const onScroll = () => {
    const node = view.current;
    if (node) setAtEnd(node.scrollHeight - node.scrollTop - node.clientHeight < NEAR_PX);
  };
  return (
    <div class="conversation-frame">
      <div class="conversation" ref={view} onScroll={onScroll} role="log" aria-live="off" aria-label={words.conversation} tabIndex={0}>
        {!turns.length && !addressed() && <Welcome />}
        {turns.map((turn, index) => (
          <Exchange
            key={`${app.opened}/${index}/${versionOf(turn)}`}
            turn={turn} isLast={index === turns.length - 1} isBusy={running !== null} namesModel={models.length > 1}
            language={preferences.language}
          />
        ))}
      </div>
      {!isAtEnd && turns.length > 0 && <IconButton icon="down" label={words.scrollDown} class="to-end" onClick={toEnd} />}
    </div>
  );
}
