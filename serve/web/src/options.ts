// Switches of each conversation, remembered in the browser; a new one begins with the last used.

import { load, save } from "./storage";
import type { Model, Options, Settings } from "./types";

const MAX_REMEMBERED = 200;
const LAST = "last";

type Remembered = Record<string, Options>;

export function optionsFor(conversation: string | null, settings: Settings, models: readonly Model[]): Options {
  const all = load<Remembered>("options", {});
  const kept: Partial<Options> = all[conversation ?? LAST] ?? all[LAST] ?? {};
  // Tools may have come and gone since, and a key may be for some of them only.
  const tools = Object.fromEntries(settings.tools.map(({ name, default: isOn }) => [name, kept.tools?.[name] ?? isOn]));
  const model = models.find(({ id }) => id === kept.model)?.id ?? settings.model;
  return { model, tools, thoughts: kept.thoughts ?? true, quality: kept.quality ?? null };
}

/** Quality levels that a model was trained with. */
export function levelsOf(model: string, models: readonly Model[]): readonly number[] {
  return models.find(({ id }) => id === model)?.quality_levels ?? [];
}

/** The level to ask a model for: the chosen one, else its best; null where it has none. */
export function levelFor({ model, quality }: Options, models: readonly Model[]): number | null {
  const levels = levelsOf(model, models);
  return levels.find((level) => level === quality) ?? levels.at(-1) ?? null;
}

export function rememberOptions(conversation: string | null, options: Options): void {
  const all = load<Remembered>("options", {});
  delete all[conversation ?? LAST]; // the newest stands last
  const kept = Object.entries(all).slice(-MAX_REMEMBERED);
  save("options", { ...Object.fromEntries(kept), [conversation ?? LAST]: options, [LAST]: options });
}

export function forgetOptions(conversation: string): void {
  const { [conversation]: _, ...others } = load<Remembered>("options", {});
  save("options", others);
}
