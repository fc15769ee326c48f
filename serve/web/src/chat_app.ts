// What the page does with a conversation: ask, stop, branch, rate.

import { address, addressed } from "./address";
import { ended, fromStored, grow, newTurn, placeAmong, turnInstead } from "./answer";
import { api, ApiFailure, asFailure, streamAnswer, type Conversation, type StreamEvent } from "./api";
import { Library } from "./library";
import { levelFor, optionsFor, rememberOptions } from "./options";
import type { Options, Turn } from "./types";
import { nameOfApi } from "./words";

/** Deltas are shown at most this often; the eye sees no more, and long answers stay cheap. */
const DRAW_EVERY_MS = 40;
/** Of another answer to the same question: a service that takes the likeliest words would repeat itself. */
const TEMPERATURE_AGAIN = 0.7;
const MAX_SEED = 2 ** 31;

type Sampling = { readonly temperature?: number; readonly seed?: number };

export class ChatApp extends Library {
  private stopper: AbortController | null = null;
  /** Counts openings, so that what belongs to an earlier one is dropped. */
  opened = 0;

  constructor() {
    super();
    window.addEventListener("hashchange", () => void this.openAddressed());
  }

  protected override async openAddressed(): Promise<void> {
    const id = addressed();
    if (id === this.state.conversation) return;
    if (id) await this.open(id);
    else this.startNew();
  }

  override startNew(step: "push" | "replace" = "push"): void {
    this.leave();
    address(null, step);
    const { settings, models } = this.state;
    const options = settings ? optionsFor(null, settings, models) : this.state.options;
    this.set({ conversation: null, turns: [], options, notice: "" });
  }

  override async open(id: string): Promise<void> {
    await this.showWhenLoaded(id, () => api.conversation(id));
  }

  /** Go to another version of a turn; the server shows that branch from now on. */
  async showVersion(id: string): Promise<void> {
    const { conversation, running } = this.state;
    if (conversation && !running) await this.showWhenLoaded(conversation, () => api.chooseBranch(conversation, id));
  }

  private async showWhenLoaded(id: string, load: () => Promise<Conversation>): Promise<void> {
    const opening = this.leave();
    try {
      const { turns } = await load();
      const { settings, models } = this.state;
      if (opening !== this.opened || !settings) return;
      address(id);
      this.set({ conversation: id, turns: turns.map(fromStored), options: optionsFor(id, settings, models), notice: "" });
    } catch (error) {
      if (opening !== this.opened) return;
      if (error instanceof ApiFailure && error.kind === "missing") {
        this.startNew("replace");
        this.set({ notice: this.words.noConversation });
      } else this.report(error);
    }
  }

  private leave(): number {
    this.stop();
    this.opened += 1;
    return this.opened;
  }

  setOptions(change: Partial<Options>): void {
    const options = { ...this.state.options, ...change };
    this.set({ options });
    rememberOptions(this.state.conversation, options);
  }

  // ---- turns -------------------------------------------------------------------------------

  ask(prompt: string): Promise<void> {
    return this.answer([...this.state.turns, newTurn(prompt)]);
  }

  /** An example shows its tool, so the tool is on for it; the switches stay as they are. */
  askExample(tool: string, prompt: string): Promise<void> {
    return this.answer([...this.state.turns, newTurn(prompt, tool)]);
  }

  /** Another answer to the same prompt, or to an edited one, in the turn's place. */
  askAgain(turn: Turn, prompt = turn.prompt): Promise<void> {
    const at = this.state.turns.indexOf(turn);
    const isOther = prompt === turn.prompt && !turn.failure;
    const sampling = isOther ? { temperature: TEMPERATURE_AGAIN, seed: Math.floor(Math.random() * MAX_SEED) } : {};
    return this.answer([...this.state.turns.slice(0, at), turnInstead(turn, prompt)], sampling);
  }

  continueAnswer(turn: Turn): Promise<void> {
    const { continuePrompt, continueFrom } = this.words;
    if (turn.isStored) return this.ask(continuePrompt);
    return this.ask(`${continueFrom}\n\n> ${turn.reply.slice(-1500).trim().replaceAll("\n", "\n> ")}`);
  }

  stop(): void {
    this.stopper?.abort();
  }

  /** Answer the last of `turns`, which becomes the shown path. */
  private async answer(turns: readonly Turn[], sampling: Sampling = {}): Promise<void> {
    const turn = turns.at(-1);
    if (!turn || this.state.running) return;
    const opening = this.opened;
    const stopper = (this.stopper = new AbortController());
    this.set({ turns, running: turn.key, announcement: this.words.answering, notice: "" });
    const draw = (next: Turn) => {
      if (opening === this.opened) this.set({ turns: [...turns.slice(0, -1), next] });
    };
    let growing = turn;
    let drawn = 0;
    let error: unknown = null;
    try {
      for await (const event of streamAnswer({ ...this.request(turns, turn), ...sampling }, stopper.signal)) {
        growing = grow(growing, event);
        if (opening === this.opened) this.noteEvent(event);
        if (event.type !== "text" || performance.now() - drawn > DRAW_EVERY_MS) {
          drawn = performance.now();
          draw(growing);
        }
      }
    } catch (caught) {
      error = caught;
    }
    const wasStopped = stopper.signal.aborted;
    draw(ended(growing, error === null ? null : asFailure(error), wasStopped));
    this.stopper = null;
    this.set({ running: null, announcement: this.lastWords(growing, error, wasStopped) });
    if (error instanceof ApiFailure && ["key", "network"].includes(error.kind)) this.report(error);
    else await this.loadHistory().catch((failure: unknown) => this.report(failure));
  }

  private request(turns: readonly Turn[], { prompt, extraTool }: Turn): object {
    const { options, models, conversation } = this.state;
    const quality = levelFor(options, models);
    return {
      model: options.model,
      messages: [{ role: "user", content: prompt }],
      stream: true,
      moss: {
        tools: extraTool ? { ...options.tools, [extraTool]: true } : options.tools,
        ...(options.thoughts ? {} : { inner_thoughts: false }),
        ...(quality === null ? {} : { quality }),
        include: ["inner_thoughts", "commands", "results", "references", "images"],
        store: { conversation_id: conversation, replace_turn: placeAmong(turns), consent: this.consent },
      },
    };
  }

  private noteEvent(event: StreamEvent): void {
    if (event.type === "commands" && event.commands.length) {
      this.set({ announcement: `${event.commands.map((call) => nameOfApi(call.api, this.words)).join(", ")}: ${this.words.running}` });
    }
    if (event.type === "done" && event.conversation_id && event.conversation_id !== this.state.conversation) {
      this.set({ conversation: event.conversation_id });
      address(event.conversation_id);
      rememberOptions(event.conversation_id, this.state.options);
    }
  }

  private lastWords(turn: Turn, error: unknown, wasStopped: boolean): string {
    if (wasStopped) return this.words.stopped;
    return error ? this.words.broken : `${this.words.answered} ${turn.reply}`;
  }

  async rate(turn: Turn, rating: number, reason = "", comment = ""): Promise<void> {
    const show = (value: number) =>
      this.set({ turns: this.state.turns.map((item) => (item.key === turn.key ? { ...item, rating: value } : item)) });
    show(rating);
    try {
      await api.rate(turn.key, rating, reason, comment);
    } catch (error) {
      show(turn.rating);
      this.report(error);
    }
  }
}
