// The history: search, open, rename, export, import, delete.

import { useEffect, useRef, useState } from "preact/hooks";
import { useApp, useAppState, useWords } from "../state";
import type { ConversationSummary } from "../types";
import type { Words } from "../words";
import { IconButton } from "./button";
import { Confirm } from "./dialog";
import { Icon } from "./icon";
import { Menu } from "./menu";

const SEARCH_AFTER_MS = 200;

export function Sidebar({ isOpen, onClose }: { isOpen: boolean; onClose: () => void }) {
  const app = useApp();
  const words = useWords();
  const close = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (isOpen) close.current?.querySelector("button")?.focus();
  }, [isOpen]);
  return (
    <aside id="sidebar" class={isOpen ? "sidebar is-open" : "sidebar"} aria-label={words.history}>
      <div class="brand" ref={close}>
        <img src="/static/icon.svg" alt="" width="26" height="26" /><span>MOSS</span>
        <IconButton icon="close" label={words.closeMenu} class="only-phone" onClick={onClose} />
      </div>
      <button type="button" class="new-chat" onClick={() => { app.startNew(); onClose(); }}>
        <Icon name="plus" /> {words.newChat}
      </button>
      <History onOpen={onClose} />
      <footer>
        <button type="button" class="side-button" onClick={() => app.set({ dialog: "settings" })}>
          <Icon name="settings" /> {words.settings}
        </button>
      </footer>
    </aside>
  );
}

function History({ onOpen }: { onOpen: () => void }) {
  const app = useApp();
  const { conversations, conversation, found, hasMore } = useAppState();
  const words = useWords();
  const [query, setQuery] = useState("");
  const [deleting, setDeleting] = useState<ConversationSummary | null>(null);
  const rows = found ?? conversations;
  useEffect(() => {
    const timer = window.setTimeout(() => void app.search(query), SEARCH_AFTER_MS);
    return () => window.clearTimeout(timer);
  }, [query]);
  return (
    <>
      <label class="search">
        <Icon name="search" />
        <input
          id="search" type="search" value={query} placeholder={words.searchHistory} aria-label={words.searchHistory}
          onInput={(event) => setQuery(event.currentTarget.value)}
          onKeyDown={(event) => { if (event.key === "Escape" && query) { event.stopPropagation(); setQuery(""); } }}
        />
      </label>
      <nav class="history" aria-label={words.history}>
        {!rows.length && <p class="hint">{found ? words.noMatch : words.noHistory}</p>}
        {groups(rows, words).map(([title, members]) => (
          <section key={title}>
            <h2>{title}</h2>
            <ul>
              {members.map((row) => (
                <Entry
                  key={row.id} row={row} query={found ? query.trim() : ""} isCurrent={row.id === conversation} onDelete={() => setDeleting(row)}
                  onOpen={() => { void app.open(row.id); onOpen(); }}
                />
              ))}
            </ul>
          </section>
        ))}
        {hasMore && !found && <button type="button" class="side-button" onClick={() => void app.loadMore()}>{words.showMore}</button>}
      </nav>
      {deleting && (
        <Confirm
          title={words.confirmDelete} hint={words.confirmDeleteHint} subject={deleting.title} act={words.remove}
          onClose={() => setDeleting(null)} onConfirm={() => void app.deleteConversation(deleting.id)}
        />
      )}
    </>
  );
}

type EntryProps = { row: ConversationSummary; query: string; isCurrent: boolean; onOpen: () => void; onDelete: () => void };

function Entry({ row, query, isCurrent, onOpen, onDelete }: EntryProps) {
  const app = useApp();
  const words = useWords();
  const [isRenaming, setRenaming] = useState(false);
  if (isRenaming) {
    return <li><Rename title={row.title} onDone={(title) => { setRenaming(false); if (title) void app.rename(row.id, title); }} /></li>;
  }
  return (
    <li class={isCurrent ? "entry is-current" : "entry"}>
      <button type="button" class="title" aria-current={isCurrent ? "page" : undefined} title={row.title} onClick={onOpen}>
        <Marked text={row.title} query={query} />{row.match && <small><Marked text={row.match} query={query} /></small>}
      </button>
      <Menu
        label={`${words.more}: ${row.title}`}
        actions={[
          { icon: "edit", label: words.rename, run: () => setRenaming(true) },
          { icon: "download", label: words.exportJson, run: () => void app.exportOne(row, "json") },
          { icon: "download", label: words.exportMarkdown, run: () => void app.exportOne(row, "md") },
          { icon: "close", label: words.remove, run: onDelete, isDanger: true },
        ]}
      />
    </li>
  );
}

/** A text with every place where it holds the searched words. */
function Marked({ text, query }: { text: string; query: string }) {
  if (!query) return <>{text}</>;
  const searched = new RegExp(`(${query.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")})`, "iu");
  return <>{text.split(searched).map((part, index) => (index % 2 ? <mark key={index}>{part}</mark> : part))}</>;
}

function Rename({ title, onDone }: { title: string; onDone: (title: string | null) => void }) {
  const words = useWords();
  const input = useRef<HTMLInputElement>(null);
  const isDone = useRef(false); // leaving the field after Enter or Escape is no second answer
  useEffect(() => {
    input.current?.focus();
    input.current?.select();
  }, []);
  const finish = (isWanted: boolean) => {
    if (isDone.current) return;
    isDone.current = true;
    const next = input.current?.value.trim() ?? "";
    onDone(isWanted && next && next !== title ? next : null);
  };
  return (
    <input
      ref={input} class="rename" type="text" defaultValue={title} maxLength={60} aria-label={words.rename} onBlur={() => finish(true)}
      onKeyDown={(event) => {
        if (event.key === "Enter") finish(true);
        if (event.key === "Escape") { event.stopPropagation(); finish(false); }
      }}
    />
  );
}

const DAY_MS = 86_400_000;

/** Conversations under the headings Today, Yesterday and so on. */
function groups(rows: readonly ConversationSummary[], words: Words): [string, ConversationSummary[]][] {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const limits: [string, number][] = [
    [words.today, midnight], [words.yesterday, midnight - DAY_MS], [words.week, midnight - 6 * DAY_MS], [words.older, -Infinity],
  ];
  const found = new Map<string, ConversationSummary[]>();
  for (const row of rows) {
    const time = Date.parse(row.updated_at || row.created_at);
    const [title] = limits.find(([, limit]) => time >= limit) ?? [words.older];
    const group = found.get(title);
    if (group) group.push(row);
    else found.set(title, [row]);
  }
  return [...found];
}
