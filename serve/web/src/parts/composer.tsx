// Where a message is written: text, tool switches, options, send or stop.

import { useEffect, useRef, useState } from "preact/hooks";
import { levelFor, levelsOf } from "../options";
import { useApp, useAppState, useWords } from "../state";
import type { Words } from "../words";
import { IconButton } from "./button";
import { Icon, type IconName } from "./icon";

const MAX_HEIGHT = 220;

export function Composer() {
  const app = useApp();
  const state = useAppState();
  const words = useWords();
  const [text, setText] = useState("");
  const area = useRef<HTMLTextAreaElement>(null);
  const isRunning = state.running !== null;

  useEffect(() => {
    // A finger would get the screen's keyboard with it, unasked.
    if (!window.matchMedia("(pointer: coarse)").matches) area.current?.focus();
  }, [state.conversation === null && state.turns.length === 0]);
  useEffect(() => {
    const node = area.current;
    if (!node) return;
    node.style.height = "auto";
    node.style.height = `${Math.min(node.scrollHeight, MAX_HEIGHT)}px`;
  }, [text]);

  const send = () => {
    if (!text.trim() || isRunning || state.isOffline) return; // the draft stays
    setText("");
    void app.ask(text.trim());
    area.current?.focus();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  };
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); send(); }}>
      <div class="box">
        <textarea
          id="message" ref={area} rows={1} value={text} maxLength={20_000} placeholder={words.ask} aria-label={words.ask}
          onInput={(event) => setText(event.currentTarget.value)} onKeyDown={onKeyDown}
        />
        <div class="tray">
          <Switches />
          <AnswerOptions />
          {isRunning
            ? <IconButton icon="stop" label={words.stop} class="send is-stop" onClick={() => app.stop()} />
            : <button type="submit" class="icon-button send" aria-label={words.send} title={words.send} disabled={!text.trim() || state.isOffline}><Icon name="send" /></button>}
        </div>
      </div>
      <p class="disclaimer">{words.disclaimer}</p>
    </form>
  );
}

function Switches() {
  const app = useApp();
  const { settings, options } = useAppState();
  const words = useWords();
  return (
    <div class="switches" role="group" aria-label={words.tools}>
      {settings?.tools.map(({ name }) => {
        const isOn = options.tools[name] ?? false;
        const label = words[name as keyof Words] ?? name;
        return (
          <button
            key={name} type="button" class="chip" data-tool={name} aria-pressed={isOn} title={label}
            onClick={() => app.setOptions({ tools: { ...options.tools, [name]: !isOn } })}
          >
            <Icon name={(name in words ? name : "settings") as IconName} /><span>{label}</span>
          </button>
        );
      })}
    </div>
  );
}

function AnswerOptions() {
  const app = useApp();
  const { models, options } = useAppState();
  const words = useWords();
  const [isOpen, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (!isOpen) return undefined;
    root.current?.querySelector<HTMLElement>(".panel input")?.focus();
    const outside = (event: Event) => {
      if (!root.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", outside);
    return () => document.removeEventListener("pointerdown", outside);
  }, [isOpen]);
  const close = (event: KeyboardEvent) => {
    if (event.key !== "Escape" || !isOpen) return;
    event.stopPropagation();
    setOpen(false);
    root.current?.querySelector("button")?.focus();
  };
  const levels = levelsOf(options.model, models);
  return (
    <div class="options" ref={root} onKeyDown={close}>
      <IconButton icon="settings" label={words.answerOptions} aria-expanded={isOpen} onClick={() => setOpen(!isOpen)} />
      {isOpen && (
        <div class="panel" role="group" aria-label={words.answerOptions}>
          {levels.length > 0 && <Quality levels={levels} />}
          <label class="switch-line">
            <span><strong>{words.innerThoughts}</strong><small>{words.innerThoughtsHint}</small></span>
            <input
              type="checkbox" role="switch" checked={options.thoughts}
              onChange={(event) => app.setOptions({ thoughts: event.currentTarget.checked })}
            />
          </label>
        </div>
      )}
    </div>
  );
}

function Quality({ levels }: { levels: readonly number[] }) {
  const app = useApp();
  const { models, options } = useAppState();
  const words = useWords();
  const at = Math.max(0, levels.indexOf(levelFor(options, models) ?? -1));
  const level = levels[at] ?? 100;
  return (
    <label class="field">
      <span>{words.quality} <output>{level}</output></span>
      <input
        type="range" min={0} max={levels.length - 1} step={1} value={at} aria-valuetext={String(level)} data-option="quality"
        onInput={(event) => app.setOptions({ quality: levels[Number(event.currentTarget.value)] ?? null })}
      />
      <small>{words.qualityHint}</small>
    </label>
  );
}
