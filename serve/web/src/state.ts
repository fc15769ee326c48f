// The page's one state and how parts of the page follow it.

import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import type { ChatApp } from "./chat_app";
import type { Consent, ConversationSummary, Language, Model, Options, Settings, Theme, Turn } from "./types";
import { WORDS, type Words } from "./words";

export type Preferences = {
  readonly language: Language;
  readonly theme: Theme;
};

/** What the user last decided, and on which version of the text. */
export type Decision = { readonly consent: Consent; readonly version: number | null };

export type DialogName = "settings" | "consent" | "key" | null;

export type State = {
  readonly preferences: Preferences;
  readonly settings: Settings | null;
  readonly models: readonly Model[];
  readonly conversations: readonly ConversationSummary[];
  readonly hasMore: boolean;
  /** What a search found; null while nothing is searched for. */
  readonly found: readonly ConversationSummary[] | null;
  readonly decision: Decision;
  readonly conversation: string | null;
  /** The shown path of the conversation, oldest turn first. */
  readonly turns: readonly Turn[];
  readonly options: Options;
  /** Key of the turn that is being answered. */
  readonly running: string | null;
  readonly isOffline: boolean;
  readonly dialog: DialogName;
  readonly keyRefused: boolean;
  /** What a screen reader says; changes when there is something to say. */
  readonly announcement: string;
  readonly notice: string;
};

export const NO_OPTIONS: Options = { model: "", tools: {}, thoughts: true, quality: null };

export function initialState(preferences: Preferences): State {
  return {
    preferences, settings: null, models: [], conversations: [], hasMore: false, found: null, decision: { consent: "none", version: null },
    conversation: null, turns: [], options: NO_OPTIONS, running: null, isOffline: false, dialog: null, keyRefused: false, announcement: "", notice: "",
  };
}

export class Observable<T extends object> {
  private readonly listeners = new Set<() => void>();

  constructor(public state: T) {}

  set(change: Partial<T>): void {
    this.state = { ...this.state, ...change };
    for (const listener of [...this.listeners]) listener();
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

export const AppContext = createContext<ChatApp | null>(null);

export function useApp(): ChatApp {
  const app = useContext(AppContext);
  if (!app) throw new Error("a part of the page stands outside of AppContext");
  return app;
}

/** The state, and a new drawing whenever it changes. */
export function useAppState(): State {
  const app = useApp();
  const [state, setState] = useState(app.state);
  useEffect(() => {
    setState(app.state); // it may have changed between drawing and here
    return app.subscribe(() => setState(app.state));
  }, [app]);
  return state;
}

export function useWords(): Words {
  return WORDS[useApp().state.preferences.language];
}
