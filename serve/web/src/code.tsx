// A block of code: its language, a copy button, colors.

import { useEffect, useState } from "preact/hooks";
import type { Colored } from "./highlight";
import { CopyButton } from "./parts/copy_button";

type Highlight = typeof import("./highlight").highlight;
let loading: Promise<Highlight> | null = null;
let loaded: Highlight | null = null;

function loadHighlight(): Promise<Highlight> {
  loading ??= import("./highlight").then((module) => (loaded = module.highlight));
  return loading;
}

const MAX_COLORED_CHARS = 20_000;

export function Code({ text, language }: { text: string; language: string }) {
  const name = language.trim().split(/\s+/)[0]?.toLowerCase() ?? "";
  const [highlight, setHighlight] = useState<Highlight | null>(() => loaded);
  useEffect(() => {
    if (name && !highlight) loadHighlight().then((found) => setHighlight(() => found), () => undefined);
  }, [name, highlight]);
  const pieces = highlight && name && text.length <= MAX_COLORED_CHARS ? highlight(text, name) : null;
  return (
    <div class="code">
      <div class="code-head">
        <span>{name || "text"}</span>
        <CopyButton text={text} label="copyCode" />
      </div>
      <pre tabIndex={0} dir="ltr"><code>{pieces ? pieces.map(colored) : text}</code></pre>
    </div>
  );
}

function colored({ scope, text }: Colored, index: number) {
  return scope ? <span key={index} class={`hl-${scope}`}>{text}</span> : text;
}
