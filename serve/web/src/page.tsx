// The page's frame: history, header, conversation, composer, dialogs.

import { useEffect, useState } from "preact/hooks";
import { Composer } from "./parts/composer";
import { ConversationView } from "./parts/conversation";
import { Dialogs } from "./parts/dialogs";
import { IconButton } from "./parts/button";
import { Icon } from "./parts/icon";
import { Sidebar } from "./parts/sidebar";
import { useApp, useAppState, useWords } from "./state";

/** Where the history is a drawer, as in style/frame.css. */
const PHONE = window.matchMedia("(max-width: 800px)");

export function Page() {
  const app = useApp();
  const { announcement } = useAppState();
  const words = useWords();
  const [isMenuOpen, setMenuOpen] = useState(false);
  const closeMenu = () => {
    if (isMenuOpen) window.setTimeout(() => document.querySelector<HTMLElement>("[aria-controls=sidebar]")?.focus(), 0);
    setMenuOpen(false);
  };
  useEffect(() => {
    const close = () => setMenuOpen(false);
    PHONE.addEventListener("change", close);
    return () => PHONE.removeEventListener("change", close);
  }, []);
  useEffect(() => {
    if (!isMenuOpen) return undefined;
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) closeMenu();
    };
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, [isMenuOpen]);
  useShortcuts(() => setMenuOpen(PHONE.matches));
  return (
    <>
      <a class="skip" href="#message" onClick={(event) => { event.preventDefault(); focusOn("message"); }}>{words.skip}</a>
      <div class={isMenuOpen ? "layout menu-open" : "layout"}>
        <Sidebar isOpen={isMenuOpen} onClose={closeMenu} />
        {isMenuOpen && <div class="backdrop" onClick={closeMenu} />}
        <main inert={isMenuOpen}>
          <Header isMenuOpen={isMenuOpen} onMenu={() => setMenuOpen(true)} onNew={() => app.startNew()} />
          <Notices />
          <ConversationView />
          <Composer />
        </main>
      </div>
      <Dialogs />
      <div class="sr-only" role="status" aria-live="polite">{announcement}</div>
    </>
  );
}

function Header({ isMenuOpen, onMenu, onNew }: { isMenuOpen: boolean; onMenu: () => void; onNew: () => void }) {
  const app = useApp();
  const { conversations, conversation, models, options, settings, preferences } = useAppState();
  const words = useWords();
  const title = conversations.find((row) => row.id === conversation)?.title ?? "";
  const isZh = preferences.language === "zh";
  return (
    <header class="top">
      <IconButton
        icon="menu" label={words.menu} class="only-phone" aria-expanded={isMenuOpen} aria-controls="sidebar" onClick={onMenu}
      />
      <div class="top-title">
        <span class="top-name" title={title}>{title || "MOSS"}</span>
        {settings && (
          <select
            class="model" aria-label={words.model} title={words.model} value={options.model}
            onChange={(event) => app.setOptions({ model: event.currentTarget.value })}
          >
            {(models.length ? models.map(({ id }) => id) : [settings.model]).map((name) => <option key={name} value={name}>{name}</option>)}
          </select>
        )}
      </div>
      <button
        type="button" class="icon-button language" lang={isZh ? "en" : "zh-Hans"} title={isZh ? "English" : "中文"}
        onClick={() => app.prefer({ language: isZh ? "en" : "zh" })}
      >
        {isZh ? "EN" : "中文"}
      </button>
      <IconButton icon="plus" label={words.newChat} class="only-phone" onClick={onNew} />
    </header>
  );
}

function Notices() {
  const app = useApp();
  const { isOffline, notice } = useAppState();
  const words = useWords();
  if (!isOffline && !notice) return null;
  return (
    <div class="banner" role="alert">
      <Icon name="warning" /> <span>{isOffline ? words.offline : notice}</span>
      {isOffline
        ? <button type="button" class="plain" onClick={() => void app.reconnect()}>{words.retry}</button>
        : <IconButton icon="close" label={words.close} onClick={() => app.set({ notice: "" })} />}
    </div>
  );
}

function focusOn(id: string): void {
  document.getElementById(id)?.focus();
}

function useShortcuts(openMenu: () => void): void {
  const app = useApp();
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (app.state.dialog || document.querySelector("dialog[open]")) return;
      const isTyping = event.target instanceof HTMLElement && event.target.matches("input, textarea, select");
      if (event.key === "Escape" && app.state.running) app.stop();
      else if (event.key === "/" && !isTyping) focusLater(event, "message");
      else if (event.key.toLowerCase() === "k" && (event.ctrlKey || event.metaKey)) {
        openMenu();
        focusLater(event, "search");
      } else if (event.code === "KeyN" && event.altKey) {
        app.startNew();
        focusLater(event, "message");
      }
    };
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, [app]);
}

/** Once the drawer or the new conversation is drawn. */
function focusLater(event: Event, id: string): void {
  event.preventDefault();
  window.setTimeout(() => focusOn(id), 0);
}
