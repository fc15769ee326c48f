// What the page holds. A turn is immutable: a change makes a new object, so views compare identity.

export type Language = "en" | "zh";
export type Theme = "system" | "light" | "dark";
export type Consent = "none" | "improve" | "improve_with_replies";

export type Call = {
  readonly api: string;
  readonly argument: string;
  readonly state: "running" | "done" | "failed" | "dropped";
  readonly text: string;
  readonly seconds: number | null;
};

export type Reference = {
  readonly number: number;
  readonly title: string;
  readonly text: string;
  readonly source: string;
};

/** Why an answer did not arrive whole. */
export type Failure = {
  readonly kind: "network" | "broken" | "rate" | "key" | "missing" | "refused";
  readonly message: string;
  /** Time in milliseconds since 1970 from which another try makes sense. */
  readonly retryAt: number;
};

export type TurnStatus = "running" | "done" | "stopped" | "failed";

export type Turn = {
  /** Name within the page; the server's id once the turn is stored. */
  readonly key: string;
  readonly isStored: boolean;
  /** Keys of the turns in its place, itself among them: the answers to each wording of the question, oldest first. */
  readonly versions: readonly (readonly string[])[];
  /** A tool that is on for this turn, whatever the switches say. */
  readonly extraTool: string | null;
  readonly prompt: string;
  /** Name of the model that answers; empty until it begins. */
  readonly model: string;
  readonly reply: string;
  readonly thoughts: string;
  readonly calls: readonly Call[];
  readonly references: readonly Reference[];
  readonly images: readonly string[];
  readonly status: TurnStatus;
  readonly wasCut: boolean;
  readonly failure: Failure | null;
  readonly rating: number;
  readonly createdAt: string;
};

export type ToolOffer = { readonly name: string; readonly default: boolean };

export type Model = {
  readonly id: string;
  /** Empty for a model that was never trained with quality tags. */
  readonly quality_levels: readonly number[];
};

export type Settings = {
  readonly model: string;
  readonly tools: readonly ToolOffer[];
  readonly consent_version: number;
  readonly needs_key: boolean;
};

export type ConversationSummary = {
  readonly id: string;
  readonly title: string;
  readonly created_at: string;
  readonly updated_at: string;
  /** Text around what a search found. */
  readonly match: string;
};

/** Switches of one conversation. */
export type Options = {
  readonly model: string;
  readonly tools: Readonly<Record<string, boolean>>;
  readonly thoughts: boolean;
  readonly quality: number | null;
};
