// Code as coloured pieces: highlight.js with an emitter of our own, as its usual one makes HTML.

import hljs from "highlight.js/lib/core";
import type { Emitter } from "highlight.js";
import bash from "highlight.js/lib/languages/bash";
import cpp from "highlight.js/lib/languages/cpp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";

export type Colored = { readonly scope: string; readonly text: string };

class Pieces implements Emitter {
  readonly pieces: Colored[] = [];
  private readonly scopes: string[] = [];

  startScope(name: string): void {
    this.scopes.push(name);
  }
  endScope(): void {
    this.scopes.pop();
  }
  // The highlighter opens modes by these names, which its types leave out.
  openNode(name: string): void {
    this.startScope(name);
  }
  closeNode(): void {
    this.endScope();
  }
  addText(text: string): void {
    // `title.function` and its like differ by their first word only, for our colors.
    if (text) this.pieces.push({ scope: this.scopes.at(-1)?.split(".")[0] ?? "", text });
  }
  __addSublanguage(emitter: Emitter): void {
    if (emitter instanceof Pieces) this.pieces.push(...emitter.pieces);
  }
  finalize(): void {}
  toHTML(): string {
    return "";
  }
}

const languages = { bash, cpp, css, diff, go, java, javascript, json, python, rust, sql, typescript, xml, yaml };
for (const [name, language] of Object.entries(languages)) hljs.registerLanguage(name, language);
hljs.configure({ __emitter: Pieces });

/** The code in pieces, or null for a language that is not known here. */
export function highlight(code: string, language: string): readonly Colored[] | null {
  if (!hljs.getLanguage(language)) return null;
  const { _emitter, errorRaised } = hljs.highlight(code, { language, ignoreIllegals: true });
  return _emitter instanceof Pieces && !errorRaised ? _emitter.pieces : null;
}
