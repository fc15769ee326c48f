import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";
import { useWords } from "../state";
import { IconButton } from "./button";

type Props = { title: string; onClose: () => void; class?: string; children: ComponentChildren };

/** A modal dialog; the browser keeps focus inside, closes it on Escape and gives focus back. */
export function Dialog({ title, onClose, class: extra = "", children }: Props) {
  const words = useWords();
  const box = useRef<HTMLDialogElement>(null);
  const name = useId();
  useEffect(() => {
    const opener = document.activeElement as HTMLElement | null;
    box.current?.showModal();
    return () => opener?.focus();
  }, []);
  return (
    <dialog
      ref={box} class={`dialog ${extra}`} aria-labelledby={name}
      onCancel={(event) => { event.preventDefault(); onClose(); }}
      onClick={(event) => { if (event.target === box.current) onClose(); }}
    >
      <div class="dialog-body">
        <header>
          <h2 id={name}>{title}</h2>
          <IconButton icon="close" label={words.close} onClick={onClose} />
        </header>
        {children}
      </div>
    </dialog>
  );
}

type ConfirmProps = { title: string; hint: string; subject?: string; act: string; onClose: () => void; onConfirm: () => void };

export function Confirm({ title, hint, subject, act, onClose, onConfirm }: ConfirmProps) {
  const words = useWords();
  return (
    <Dialog title={title} class="is-small" onClose={onClose}>
      {subject && <p><strong>{subject}</strong></p>}
      <p class="hint">{hint}</p>
      <div class="row-end">
        <button type="button" class="plain" onClick={onClose}>{words.cancel}</button>
        <button type="button" class="danger" onClick={() => { onConfirm(); onClose(); }}>{act}</button>
      </div>
    </Dialog>
  );
}
