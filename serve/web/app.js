import { EXAMPLES, WORDS, element, icon, showText } from "/static/text.js";

const $ = (id) => document.getElementById(id);
const saved = (name, otherwise) => localStorage.getItem(name) ?? otherwise;
const state = {
  language: saved("language", navigator.language.startsWith("zh") ? "zh" : "en"),
  conversation: null, tools: [], on: {}, running: null, key: "",
};
const word = (name) => WORDS[state.language][name] ?? name;

// ---- server ---------------------------------------------------------------------------------

function headers() {
  const all = { "content-type": "application/json" };
  if (state.key) all.authorization = `Bearer ${state.key}`;
  return all;
}

async function call(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers() });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error?.message ?? answer.statusText);
  return body;
}

// Events of one streamed answer. A stream that ends without [DONE] broke off.
async function* streamed(request, signal) {
  const answer = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(), signal, body: JSON.stringify(request),
  });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error(word("failed"));
    const lines = (pending + value).split("\n");
    pending = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      const data = line.slice(6);
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.choices.length) yield chunk.choices[0];
    }
  }
}

// ---- one exchange on the page ---------------------------------------------------------------

class Exchange {
  constructor(prompt) {
    this.prompt = prompt;
    this.text = "";
    this.id = null;
    this.rating = 0;
    this.root = element("article", "exchange");
    this.human = element("div", "human", prompt);
    this.steps = element("div", "steps");
    this.reply = element("div", "reply");
    this.pictures = element("div", "pictures");
    this.note = element("p", "note");
    this.references = element("details", "references");
    this.references.hidden = true;
    this.referencesTitle = element("summary", "", word("references"));
    this.referencesList = element("ol");
    this.references.append(this.referencesTitle, this.referencesList);
    this.actions = element("div", "actions");
    const moss = element("div", "moss");
    moss.append(this.steps, this.reply, this.pictures, this.references, this.note, this.actions);
    this.root.append(this.human, moss);
    $("messages").append(this.root);
    this.root.scrollIntoView({ block: "end" });
  }

  step(kind, title, detail) {
    const step = element("details", `step ${kind}`);
    step.append(element("summary", "", title), element("pre", "", detail));
    this.steps.append(step);
    return step;
  }

  thoughts(text) {
    this.step("thoughts", word("thoughts"), text);
  }

  command(item, isDropped) {
    const title = `${item.api}("${item.argument}")`;
    const step = this.step(isDropped ? "dropped" : "waiting", title, isDropped ? word("dropped") : "…");
    step.dataset.call = `${item.api}\n${item.argument}`;
  }

  result(item) {
    const name = `${item.api}\n${item.argument}`;
    const waiting = [...this.steps.querySelectorAll(".waiting")];
    const step = waiting.find((node) => node.dataset.call === name)
      ?? this.step("", `${item.api}("${item.argument}")`, "");
    step.className = `step ${item.ok ? "done" : "failed"}`;
    step.querySelector("pre").textContent = item.text;
    const value = item.text.replace(/^'(.*)'$/, "$1");
    const isShort = value.length <= 40 && !value.includes("\n") && !value.startsWith("<|");
    if (isShort) step.querySelector("summary").append(element("span", "value", value));
  }

  reference(item) {
    const line = element("li");
    line.value = item.number;
    line.append(element("strong", "", item.title), element("span", "", ` ${item.text}`));
    this.referencesList.append(line);
    this.references.hidden = false;
  }

  image(id) {
    const picture = element("img");
    picture.src = `/app/images/${id}`;
    picture.alt = this.prompt;
    this.pictures.append(picture);
  }

  say(text) {
    this.text += text;
    showText(this.reply, this.text);
  }

  finish(isLast) {
    this.actions.replaceChildren();
    const add = (label, act) => {
      const button = element("button", "icon small");
      button.append(icon(label));
      button.title = word(label);
      button.setAttribute("aria-label", word(label));
      button.addEventListener("click", act);
      this.actions.append(button);
      return button;
    };
    add("copy", () => navigator.clipboard.writeText(this.text));
    if (isLast) add("regenerate", () => regenerate(this));
    if (!this.id) return;
    const buttons = {};
    const rate = async (value) => {
      this.rating = this.rating === value ? 0 : value;
      await call(`/app/turns/${this.id}/rating`, {
        method: "POST", body: JSON.stringify({ rating: this.rating }),
      });
      show();
    };
    const show = () => {
      for (const [value, button] of Object.entries(buttons)) {
        button.setAttribute("aria-pressed", String(this.rating === Number(value)));
      }
    };
    buttons[1] = add("good", () => rate(1));
    buttons[-1] = add("bad", () => rate(-1));
    show();
  }
}

let exchanges = [];

async function run(prompt, replaced) {
  if (state.running) return;
  $("welcome").hidden = true;
  for (const earlier of exchanges) earlier.finish(false);
  const exchange = new Exchange(prompt);
  exchanges.push(exchange);
  state.running = new AbortController();
  setRunning(true);
  exchange.root.classList.add("running");
  const request = {
    messages: [{ role: "user", content: prompt }],
    stream: true,
    moss: {
      tools: state.on,
      include: ["inner_thoughts", "commands", "results", "references", "images"],
      store: {
        conversation_id: state.conversation, replace_turn: replaced ?? null,
        consent: $("consent").value,
      },
    },
  };
  try {
    for await (const choice of streamed(request, state.running.signal)) take(exchange, choice);
  } catch (error) {
    const stopped = error.name === "AbortError";
    exchange.note.textContent = stopped ? word("stopped") : error.message;
    exchange.root.classList.toggle("broken", !stopped);
  }
  exchange.root.classList.remove("running");
  exchange.finish(true);
  state.running = null;
  setRunning(false);
  loadHistory();
}

function take(exchange, choice) {
  const { content, reasoning_content: thoughts, moss } = choice.delta;
  if (thoughts) exchange.thoughts(thoughts);
  if (content) exchange.say(content);
  if (choice.finish_reason === "length") exchange.note.textContent = word("cut");
  if (!moss) return;
  if (moss.type === "commands") {
    for (const item of moss.commands) exchange.command(item, false);
    for (const item of moss.dropped) exchange.command(item, true);
  } else if (moss.type === "result") exchange.result(moss);
  else if (moss.type === "reference") exchange.reference(moss);
  else if (moss.type === "image") exchange.image(moss.id);
  else if (moss.type === "done") {
    state.conversation = moss.conversation_id;
    exchange.id = moss.turn_id;
  }
}

function regenerate(exchange) {
  if (state.running) return;
  exchanges = exchanges.filter((item) => item !== exchange);
  exchange.root.remove();
  run(exchange.prompt, exchange.id);
}

function setRunning(isRunning) {
  $("send").hidden = isRunning;
  $("stop").hidden = !isRunning;
}

// ---- history --------------------------------------------------------------------------------

async function loadHistory() {
  const rows = await call("/app/conversations").catch(() => []);
  $("conversations").replaceChildren(...rows.map((row) => {
    const line = element("li");
    const open = element("button", "entry", row.title);
    open.setAttribute("aria-current", String(row.id === state.conversation));
    open.addEventListener("click", () => openConversation(row.id));
    const remove = element("button", "icon small");
    remove.append(icon("remove"));
    remove.setAttribute("aria-label", word("remove"));
    remove.addEventListener("click", () => removeConversation(row.id));
    line.append(open, remove);
    return line;
  }));
}

async function openConversation(id) {
  if (state.running) return;
  const { turns } = await call(`/app/conversations/${id}`);
  startNew();
  state.conversation = id;
  $("welcome").hidden = turns.length > 0;
  for (const turn of turns) {
    const exchange = new Exchange(turn.human);
    exchanges.push(exchange);
    exchange.id = turn.id;
    exchange.rating = turn.rating;
    if (turn.inner_thoughts) exchange.thoughts(turn.inner_thoughts);
    for (const item of turn.results) exchange.result(item);
    for (const item of turn.references) exchange.reference(item);
    for (const image of turn.images) exchange.image(image);
    exchange.say(turn.moss);
    exchange.finish(turn === turns.at(-1));
  }
  document.body.classList.remove("menu-open");
  loadHistory();
}

async function removeConversation(id) {
  if (!confirm(word("confirmDelete"))) return;
  await call(`/app/conversations/${id}`, { method: "DELETE" });
  if (id === state.conversation) startNew();
  loadHistory();
}

function startNew() {
  state.conversation = null;
  exchanges = [];
  for (const node of document.querySelectorAll(".exchange")) node.remove();
  $("welcome").hidden = false;
}

// ---- page -----------------------------------------------------------------------------------

function translate() {
  document.documentElement.lang = state.language;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = word(node.dataset.text);
  for (const node of document.querySelectorAll("[data-placeholder]")) node.placeholder = word(node.dataset.placeholder);
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", word(node.dataset.label));
    node.title = word(node.dataset.label);
  }
  $("language").textContent = state.language === "en" ? "中文" : "EN";
  $("examples").replaceChildren(...EXAMPLES[state.language].map((text) => {
    const button = element("button", "example", text);
    button.type = "button";
    button.addEventListener("click", () => run(text));
    return button;
  }));
  showSwitches();
}

function showSwitches() {
  $("switches").replaceChildren(...state.tools.map(({ name }) => {
    const chip = element("button", "chip", word(name));
    chip.type = "button";
    chip.dataset.tool = name;
    chip.setAttribute("aria-pressed", String(state.on[name]));
    chip.addEventListener("click", () => {
      state.on[name] = !state.on[name];
      localStorage.setItem("tools", JSON.stringify(state.on));
      chip.setAttribute("aria-pressed", String(state.on[name]));
    });
    return chip;
  }));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
}

function submit() {
  const text = $("prompt").value.trim();
  if (!text || state.running) return;
  $("prompt").value = "";
  $("prompt").style.height = "";
  run(text);
}

// Asked again when the key changes: a key may be for some of the tools only.
async function loadSettings() {
  const settings = await call("/app/settings");
  const kept = JSON.parse(saved("tools", "{}"));
  state.tools = settings.tools;
  state.on = Object.fromEntries(settings.tools.map((tool) => [tool.name, kept[tool.name] ?? tool.default]));
  $("model").textContent = settings.model;
  $("key").hidden = !settings.needs_key;
  showSwitches();
}

async function start() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(saved("theme", dark ? "dark" : "light"));
  $("consent").value = saved("consent", "none");
  translate();
  await loadSettings();
  loadHistory();
}

$("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
});
$("prompt").addEventListener("input", () => {
  $("prompt").style.height = "auto";
  $("prompt").style.height = `${Math.min($("prompt").scrollHeight, 200)}px`;
});
$("stop").addEventListener("click", () => state.running?.abort());
$("new-chat").addEventListener("click", () => { if (!state.running) { startNew(); loadHistory(); } });
$("consent").addEventListener("change", () => localStorage.setItem("consent", $("consent").value));
$("key").addEventListener("change", () => { state.key = $("key").value; loadSettings(); loadHistory(); });
$("menu").addEventListener("click", () => document.body.classList.toggle("menu-open"));
$("theme").addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
$("language").addEventListener("click", () => {
  state.language = state.language === "en" ? "zh" : "en";
  localStorage.setItem("language", state.language);
  translate();
  loadHistory();
});
start().catch((error) => { $("status").textContent = error.message; });
