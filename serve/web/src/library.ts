// A user's conversations and decisions: list, search, rename, delete, consent, files.

import { api } from "./api";
import { Connection } from "./connection";
import { forgetOptions } from "./options";
import { asExport, asMarkdown, download, fileName, readExport, type Exported } from "./transfer";
import type { Consent, ConversationSummary } from "./types";

const PAGE_SIZE = 100;

export abstract class Library extends Connection {
  private query = "";

  abstract open(id: string): Promise<void>;
  abstract startNew(step?: "push" | "replace"): void;

  protected override async loadOwn(): Promise<void> {
    const [decision] = await Promise.all([api.consent(), this.loadHistory()]);
    this.set({ decision });
  }

  /** The newest conversations, as many as are shown already. */
  async loadHistory(): Promise<void> {
    const limit = Math.min(500, Math.max(PAGE_SIZE, this.state.conversations.length));
    const conversations = await api.conversations(0, limit);
    this.set({ conversations, hasMore: conversations.length === limit });
  }

  async loadMore(): Promise<void> {
    await this.reporting(async () => {
      const rows = await api.conversations(this.state.conversations.length, PAGE_SIZE);
      const known = new Set(this.state.conversations.map((row) => row.id));
      const conversations = [...this.state.conversations, ...rows.filter((row) => !known.has(row.id))];
      this.set({ conversations, hasMore: rows.length === PAGE_SIZE });
    });
  }

  async search(query: string): Promise<void> {
    this.query = query.trim();
    if (!this.query) return this.set({ found: null });
    await this.reporting(async () => {
      const found = await api.search(this.query.slice(0, 200));
      if (query.trim() === this.query) this.set({ found }); // else another search has begun
    });
  }

  async rename(id: string, title: string): Promise<void> {
    await this.reporting(async () => {
      await api.rename(id, title);
      await this.refresh();
    });
  }

  async deleteConversation(id: string): Promise<void> {
    await this.reporting(async () => {
      await api.remove(id);
      forgetOptions(id);
      if (id === this.state.conversation) this.startNew("replace");
      await this.refresh();
    });
  }

  async deleteEverything(): Promise<void> {
    await this.reporting(async () => {
      await api.removeAll();
      for (const row of this.state.conversations) forgetOptions(row.id);
      this.startNew("replace");
      await this.loadOwn();
    });
  }

  private async refresh(): Promise<void> {
    await Promise.all([this.loadHistory(), this.search(this.query)]);
  }

  /** The consent that counts: what was agreed to under another text does not. */
  get consent(): Consent {
    const { decision, settings } = this.state;
    return decision.version === settings?.consent_version ? decision.consent : "none";
  }

  async agree(consent: Consent, version: number): Promise<void> {
    await this.reporting(async () => {
      await api.agree(consent, version);
      this.set({ decision: { consent, version }, dialog: null });
    });
  }

  async exportAll(): Promise<void> {
    await this.reporting(async () => download("moss-conversations.json", "application/json", await api.exportAll()));
  }

  async exportOne(row: ConversationSummary, format: "json" | "md"): Promise<void> {
    await this.reporting(async () => {
      const { turns } = await api.conversation(row.id);
      const whole: Exported = { title: row.title, turns };
      const [type, text] = format === "md" ? ["text/markdown", asMarkdown(whole, this.words)] : ["application/json", asExport(whole)];
      download(fileName(row.title, format), type, text);
    });
  }

  /** Add the conversations of a file, one request each, and open the last one. */
  async importFile(file: File): Promise<void> {
    const conversations = await readExport(file);
    if (!conversations?.length) return this.set({ notice: this.words.notAnExport, dialog: null });
    await this.reporting(async () => {
      let last = "";
      for (const conversation of conversations) last = (await api.import([conversation])).conversation_ids[0] ?? last;
      await this.loadHistory();
      this.set({ dialog: null, announcement: `${this.words.imported}: ${conversations.length}` });
      if (last) await this.open(last);
    });
  }

  private async reporting(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.report(error);
    }
  }
}
