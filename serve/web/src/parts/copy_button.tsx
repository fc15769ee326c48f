import { useEffect, useState } from "preact/hooks";
import { useApp, useWords } from "../state";
import { IconButton } from "./button";

const SHOWN_FOR_MS = 1_600;

export function CopyButton({ text, label }: { text: string; label: "copy" | "copyCode" }) {
  const app = useApp();
  const words = useWords();
  const [isCopied, setCopied] = useState(false);
  useEffect(() => {
    if (!isCopied) return undefined;
    const timer = window.setTimeout(() => setCopied(false), SHOWN_FOR_MS);
    return () => window.clearTimeout(timer);
  }, [isCopied]);
  const copy = async () => {
    await copyText(text);
    setCopied(true);
    app.set({ announcement: words.copied });
  };
  return (
    <IconButton
      icon={isCopied ? "check" : "copy"} label={isCopied ? words.copied : words[label]}
      class={isCopied ? "is-done" : ""} onClick={() => void copy()}
    />
  );
}

/** The clipboard needs a secure address; a plain one on the local network has the older way. */
async function copyText(text: string): Promise<void> {
  if (window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "off-screen";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
