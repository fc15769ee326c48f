// Settings, key and connection: what must stand before anything can be asked.

import { api, asFailure } from "./api";
import { optionsFor } from "./options";
import { initialState, Observable, type Preferences, type State } from "./state";
import { apiKey, load, save } from "./storage";
import { WORDS, type Words } from "./words";

const RECONNECT_EVERY_MS = 4_000;

export abstract class Connection extends Observable<State> {
  private reconnecting = 0;

  constructor() {
    const language = navigator.language.startsWith("zh") ? "zh" : "en";
    super(initialState(load<Preferences>("preferences", { language, theme: "system" })));
    this.applyPreferences();
    window.addEventListener("online", () => void (this.state.isOffline && this.reconnect()));
  }

  /** Load what a user of this key has. */
  protected abstract loadOwn(): Promise<void>;

  /** Open the conversation that the page's address names. */
  protected abstract openAddressed(): Promise<void>;

  get words(): Words {
    return WORDS[this.state.preferences.language];
  }

  async start(): Promise<void> {
    try {
      const settings = await api.settings();
      const { conversation } = this.state;
      this.set({ settings, options: optionsFor(conversation, settings, this.state.models), isOffline: false });
      if (settings.needs_key && !apiKey.get()) return this.set({ dialog: "key" });
      const [models] = await Promise.all([api.models(), this.loadOwn()]);
      this.set({ models, keyRefused: false, options: optionsFor(conversation, settings, models) });
      await this.openAddressed();
    } catch (error) {
      this.report(error);
    }
  }

  async useKey(key: string): Promise<void> {
    apiKey.set(key.trim());
    this.set({ dialog: null, keyRefused: false });
    await this.start();
  }

  /** Show a failure of anything but an answer; an answer's failure stands beside it. */
  protected report(error: unknown): void {
    const failure = asFailure(error);
    if (failure.kind === "key") this.set({ dialog: "key", keyRefused: apiKey.get() !== "" });
    else if (failure.kind === "network") this.lose();
    else this.set({ notice: failure.message || this.words.failedToLoad });
  }

  private lose(): void {
    this.set({ isOffline: true });
    if (this.reconnecting) return;
    this.reconnecting = window.setInterval(() => void this.reconnect(), RECONNECT_EVERY_MS);
  }

  async reconnect(): Promise<void> {
    if (!(await api.isUp())) return;
    window.clearInterval(this.reconnecting);
    this.reconnecting = 0;
    this.set({ isOffline: false });
    await this.start();
  }

  prefer(change: Partial<Preferences>): void {
    const preferences = { ...this.state.preferences, ...change };
    save("preferences", preferences);
    this.set({ preferences });
    this.applyPreferences();
  }

  private applyPreferences(): void {
    const { theme, language } = this.state.preferences;
    const root = document.documentElement;
    root.lang = language === "zh" ? "zh-Hans" : "en";
    if (theme === "system") delete root.dataset["theme"];
    else root.dataset["theme"] = theme;
  }
}
