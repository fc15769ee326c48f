// Settings, consent, and the key of a protected service.

import { useRef, useState } from "preact/hooks";
import { useApp, useAppState, useWords } from "../state";
import type { Consent, Theme } from "../types";
import { CONSENT_TEXTS } from "../words";
import { Confirm, Dialog } from "./dialog";
import { Icon } from "./icon";

export function Dialogs() {
  const { dialog } = useAppState();
  if (dialog === "settings") return <SettingsDialog />;
  if (dialog === "consent") return <ConsentDialog />;
  return dialog === "key" ? <KeyDialog /> : null;
}

function SettingsDialog() {
  const app = useApp();
  const { preferences, settings } = useAppState();
  const words = useWords();
  return (
    <Dialog title={words.settings} onClose={() => app.set({ dialog: null })}>
      <div class="setting">
        <h3>{words.language}</h3>
        <Choice
          name="language" label={words.language} value={preferences.language} options={[["en", "English"], ["zh", "中文"]]}
          onChoose={(language) => app.prefer({ language })}
        />
      </div>
      <div class="setting">
        <h3>{words.theme}</h3>
        <Choice<Theme>
          name="theme" label={words.theme} value={preferences.theme} options={[["system", words.system], ["light", words.light], ["dark", words.dark]]}
          onChoose={(theme) => app.prefer({ theme })}
        />
      </div>
      <div class="setting">
        <h3>{words.data}</h3>
        <ConsentLine />
        <Transfer />
      </div>
      {settings?.needs_key && (
        <div class="setting">
          <h3>{words.keyLabel}</h3>
          <button type="button" class="plain" onClick={() => app.set({ dialog: "key" })}><Icon name="lock" /> {words.changeKey}</button>
        </div>
      )}
      <div class="setting">
        <h3>{words.shortcuts}</h3>
        <dl class="shortcuts">
          <dt><kbd>Enter</kbd></dt><dd>{words.shortcutSend}</dd>
          <dt><kbd>Shift</kbd> <kbd>Enter</kbd></dt><dd>{words.shortcutLine}</dd>
          <dt><kbd>Esc</kbd></dt><dd>{words.shortcutStop}</dd>
          <dt><kbd>/</kbd></dt><dd>{words.shortcutFocus}</dd>
          <dt><kbd>Ctrl</kbd> <kbd>K</kbd></dt><dd>{words.shortcutSearch}</dd>
          <dt><kbd>Alt</kbd> <kbd>N</kbd></dt><dd>{words.shortcutNew}</dd>
        </dl>
      </div>
    </Dialog>
  );
}

type ChoiceProps<T extends string> = {
  name: string; label: string; value: T; options: readonly (readonly [T, string])[]; onChoose: (value: T) => void;
};

function Choice<T extends string>({ name, label, value, options, onChoose }: ChoiceProps<T>) {
  return (
    <div class="choice" role="radiogroup" aria-label={label}>
      {options.map(([option, text]) => (
        <label key={option}>
          <input type="radio" name={name} value={option} checked={option === value} onChange={() => onChoose(option)} />
          <span>{text}</span>
        </label>
      ))}
    </div>
  );
}

export function ConsentLine() {
  const app = useApp();
  useAppState();
  const words = useWords();
  const now = { none: words.consentNow, improve: words.consentNowPrompts, improve_with_replies: words.consentNowReplies }[app.consent];
  return (
    <p class="consent-line">
      <Icon name={app.consent === "none" ? "lock" : "unlock"} /> <span>{now}</span>
      <button type="button" class="link" onClick={() => app.set({ dialog: "consent" })}>{words.consentChange}</button>
    </p>
  );
}

function ConsentDialog() {
  const app = useApp();
  const { decision, preferences, settings } = useAppState();
  const words = useWords();
  const [choice, setChoice] = useState<Consent>(app.consent);
  const version = settings?.consent_version ?? 0;
  const text = CONSENT_TEXTS[version]?.[preferences.language];
  const wasChanged = decision.consent !== "none" && decision.version !== version;
  if (!text) return null; // a server with a text that this page does not know cannot be agreed to
  return (
    <Dialog title={words.consentTitle} onClose={() => app.set({ dialog: null })}>
      {wasChanged && <p class="failure" role="alert"><Icon name="warning" /> {words.consentChanged}</p>}
      <p>{text.intro}</p>
      <div class="consents" role="radiogroup" aria-label={words.consentTitle}>
        {(Object.keys(text.choices) as Consent[]).map((name) => (
          <label key={name}>
            <input type="radio" name="consent" value={name} checked={choice === name} onChange={() => setChoice(name)} />
            <span><strong>{text.choices[name].title}</strong><small>{text.choices[name].text}</small></span>
          </label>
        ))}
      </div>
      <p class="hint">{text.note} {words.consentVersion} {version}.</p>
      <div class="row-end">
        <button type="button" class="plain" onClick={() => app.set({ dialog: null })}>{words.cancel}</button>
        <button type="button" class="primary" onClick={() => void app.agree(choice, version)}>{words.save}</button>
      </div>
    </Dialog>
  );
}

function KeyDialog() {
  const app = useApp();
  const { keyRefused } = useAppState();
  const words = useWords();
  const input = useRef<HTMLInputElement>(null);
  return (
    <Dialog title={words.keyTitle} class="is-small" onClose={() => app.set({ dialog: null })}>
      <form onSubmit={(event) => { event.preventDefault(); void app.useKey(input.current?.value ?? ""); }}>
        {keyRefused && <p class="failure" role="alert"><Icon name="warning" /> {words.keyWrong}</p>}
        <label class="field">
          <span>{words.keyLabel}</span>
          <input ref={input} type="password" autocomplete="off" spellcheck={false} required />
          <small>{words.keyHint}</small>
        </label>
        <div class="row-end"><button type="submit" class="primary">{words.useKey}</button></div>
      </form>
    </Dialog>
  );
}

function Transfer() {
  const app = useApp();
  const { conversations } = useAppState();
  const words = useWords();
  const file = useRef<HTMLInputElement>(null);
  const [isSure, setSure] = useState(false);
  const take = async () => {
    const chosen = file.current?.files?.[0];
    if (chosen) await app.importFile(chosen);
    if (file.current) file.current.value = "";
  };
  return (
    <div class="row">
      <button type="button" class="plain" disabled={!conversations.length} onClick={() => void app.exportAll()}>
        <Icon name="download" /> {words.exportAll}
      </button>
      <button type="button" class="plain" onClick={() => file.current?.click()}><Icon name="upload" /> {words.importFile}</button>
      <input ref={file} type="file" accept="application/json,.json" aria-label={words.importFile} hidden onChange={() => void take()} />
      <button type="button" class="plain is-bad" disabled={!conversations.length} onClick={() => setSure(true)}><Icon name="close" /> {words.deleteAll}</button>
      {isSure && (
        <Confirm
          title={words.confirmDeleteAll} hint={words.confirmDeleteHint} act={words.deleteAll} onClose={() => setSure(false)}
          onConfirm={() => void app.deleteEverything()}
        />
      )}
    </div>
  );
}
