// Conversations as files.

import type { StoredTurn } from "./api";
import type { Words } from "./words";

export type Exported = { title: string; turns: StoredTurn[] };

const MAX_FILE_BYTES = 50_000_000;

/** The conversations of a file, one by one as the server takes them; null if it is no export. */
export async function readExport(file: File): Promise<unknown[] | null> {
  if (file.size > MAX_FILE_BYTES) return null;
  try {
    const found = JSON.parse(await file.text()) as { format?: unknown; conversations?: unknown } | null;
    return found?.format === "moss-chat" && Array.isArray(found.conversations) ? (found.conversations as unknown[]) : null;
  } catch {
    return null;
  }
}

/** One conversation in the form of the server's export. */
export function asExport({ title, turns }: Exported): string {
  let above: string | null = null;
  const line = turns.map(({ siblings: _, versions: __, ...turn }) => {
    const linked = { ...turn, parent_id: above };
    above = turn.id;
    return linked;
  });
  const exported = { format: "moss-chat", version: 1, exported_at: new Date().toISOString(), conversations: [{ title, turns: line }] };
  return JSON.stringify(exported, null, 1);
}

export function download(name: string, type: string, text: string): void {
  const link = document.createElement("a");
  const address = URL.createObjectURL(new Blob([text], { type }));
  link.href = address;
  link.download = name;
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** A title as a file name that every system takes. */
export function fileName(title: string, ending: string): string {
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60);
  return `${name || "moss"}.${ending}`;
}

export function asMarkdown({ title, turns }: Exported, words: Words): string {
  const parts = turns.map((turn) => {
    const calls = turn.results.map((call) => `- \`${call.api}(${JSON.stringify(call.argument)})\`: ${call.text.replaceAll("\n", " ")}`);
    const sources = turn.references.map((page) => `${page.number}. ${page.title} (${page.source})`);
    const reply = turn.moss.replace(/<sup><\|(\d+)\|><\/sup>/g, "[$1]");
    const blocks = [`## ${words.you}\n\n${turn.human}`, `## ${words.moss}`, calls.join("\n"), reply];
    if (sources.length) blocks.push(`${words.references}:\n\n${sources.join("\n")}`);
    return blocks.filter(Boolean).join("\n\n");
  });
  return `# ${title}\n\n${parts.join("\n\n")}\n`;
}
