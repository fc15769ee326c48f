// A button that opens a list of actions; arrow keys move, Escape closes.

import { useEffect, useRef, useState } from "preact/hooks";
import { IconButton } from "./button";
import { Icon, type IconName } from "./icon";

export type Action = { icon: IconName; label: string; run: () => void; isDanger?: boolean };

export function Menu({ label, actions }: { label: string; actions: readonly Action[] }) {
  const [at, setAt] = useState<{ top: number; left: number } | null>(null);
  const root = useRef<HTMLDivElement>(null);
  const close = (refocus: boolean) => {
    setAt(null);
    if (refocus) root.current?.querySelector("button")?.focus();
  };
  useEffect(() => {
    if (!at) return undefined;
    root.current?.querySelector<HTMLElement>("[role=menuitem]")?.focus();
    const outside = (event: Event) => {
      if (!root.current?.contains(event.target as Node)) close(false);
    };
    const moved = () => close(false);
    document.addEventListener("pointerdown", outside);
    document.addEventListener("scroll", moved, true);
    return () => {
      document.removeEventListener("pointerdown", outside);
      document.removeEventListener("scroll", moved, true);
    };
  }, [at]);
  const open = () => {
    const box = root.current?.getBoundingClientRect();
    if (!box) return;
    const height = actions.length * 36 + 16;
    const top = box.bottom + height > window.innerHeight ? box.top - height : box.bottom + 4;
    setAt({ top, left: Math.max(8, Math.min(box.right - 200, window.innerWidth - 208)) });
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      close(true);
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const items = [...(root.current?.querySelectorAll<HTMLElement>("[role=menuitem]") ?? [])];
    const now = items.indexOf(document.activeElement as HTMLElement);
    items.at((now + step) % items.length)?.focus();
  };
  return (
    <div class="menu" ref={root} onKeyDown={at ? onKeyDown : undefined}>
      <IconButton
        icon="more" label={label} aria-haspopup="menu" aria-expanded={at !== null}
        onClick={() => (at ? close(false) : open())}
      />
      {at && (
        <div class="menu-list" role="menu" aria-label={label} style={{ top: `${at.top}px`, left: `${at.left}px` }}>
          {actions.map((action) => (
            <button
              key={action.label} type="button" role="menuitem" class={action.isDanger ? "is-danger" : ""}
              onClick={() => { close(true); action.run(); }}
            >
              <Icon name={action.icon} /> {action.label}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
