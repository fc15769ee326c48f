"use strict";
// The viewer of rows. Everything from the data is written with textContent, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE_ROWS = 50;
  const FILTERS = ["dataset", "status", "step", "language", "category"];
  const SECTIONS = [["human", "Human"], ["inner_thoughts", "Inner Thoughts"], ["commands", "Commands"],
    ["results", "Results"], ["moss", "MOSS"]];
  const SHOWN_ELSEWHERE = new Set(["id", "status", "reason", "parents", "lineage", "calls", "ledger_keys",
    "conversation", "text", "query", "responses", "response_a", "response_b", "cost_usd"]);
  const byId = (id) => document.getElementById(id);
  const state = { matches: [], page: 0, open: null, query: "", chosen: {} };

  function make(tag, name, text) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function conversationOf(row) {
    if (row.parsed === undefined) {
      try { row.parsed = row.conversation ? JSON.parse(row.conversation) : null; } catch { row.parsed = null; }
    }
    return row.parsed;
  }

  function summaryOf(row) {
    if (row.text || row.query) return row.text || row.query;
    const conversation = conversationOf(row);
    return conversation && conversation.turns.length ? conversation.turns[conversation.turns.length - 1].human : "";
  }

  function haystackOf(row) {
    if (row.haystack === undefined) {
      row.haystack = Object.entries(row).filter(([name]) => !["lineage", "calls", "parsed"].includes(name))
        .map(([, value]) => typeof value === "string" ? value : JSON.stringify(value)).join("\n").toLowerCase();
    }
    return row.haystack;
  }

  const tokensOf = (row) => row.calls.reduce((sum, call) => sum + (call.prompt_tokens + call.completion_tokens) / call.shared_by, 0);
  const money = (usd) => usd === "" || usd === undefined ? "no price" : `$${Number(usd) >= 0.01 ? Number(usd).toFixed(2) : Number(usd).toPrecision(2)}`;
  const number = (value) => Math.round(value).toLocaleString("en");

  // ---- the list ----

  function buildFilters() {
    for (const name of FILTERS) {
      const counts = new Map();
      for (const row of data.rows) {
        const value = row[name] || "none";
        counts.set(value, (counts.get(value) || 0) + 1);
      }
      if (counts.size < 2) continue;
      const select = make("select");
      select.setAttribute("aria-label", name);
      select.append(option("", `${name}: all`));
      for (const [value, count] of [...counts].sort()) select.append(option(value, `${value} (${number(count)})`));
      select.addEventListener("change", () => {
        choose(select, name, select.value);
        filter();
      });
      // A run's last file is what later runs read; the others lead up to it.
      if (name === "dataset") choose(select, name, data.datasets[data.datasets.length - 1]);
      byId("selects").append(select);
    }
  }

  function choose(select, name, value) {
    select.value = value;
    state.chosen[name] = select.value;
    select.classList.toggle("set", select.value !== "");
  }

  function option(value, text) {
    const item = make("option", "", text);
    item.value = value;
    return item;
  }

  function filter() {
    const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = Object.entries(state.chosen).filter(([, value]) => value);
    state.matches = data.rows.filter((row) => chosen.every(([name, value]) => (row[name] || "none") === value)
      && (!words.length || words.every((word) => haystackOf(row).includes(word))));
    state.page = 0;
    show();
  }

  const COLUMNS = [["Row", ""], ["Status", ""], ["Category", "middle"], ["Language", "wide"], ["Step", "wide"],
    ["Model", "wide"], ["Tokens", "wide number"], ["Cost", "wide number"]];

  function show() {
    const num_pages = Math.max(1, Math.ceil(state.matches.length / PAGE_ROWS));
    const first = state.page * PAGE_ROWS;
    const head = make("tr");
    for (const [title, name] of COLUMNS) head.append(make("th", name, title));
    byId("rows").tHead.replaceChildren(head);
    byId("rows").tBodies[0].replaceChildren(...state.matches.slice(first, first + PAGE_ROWS).map(listRow));
    const held = `${number(data.rows.length)} of ${number(data.num_rows)} rows`;
    const bound = data.rows.length < data.num_rows
      ? `This page holds ${held}, a sample by id in which every outcome occurs.` : `All ${number(data.num_rows)} rows of the run.`;
    byId("count").textContent = `${number(state.matches.length)} match. ${bound}`;
    byId("page").textContent = `Page ${state.page + 1} of ${number(num_pages)}`;
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page >= num_pages - 1;
  }

  function listRow(row) {
    const line = make("tr", row === state.open ? "selected" : "");
    const text = make("td", "text");
    const button = make("button", "id", row.id);
    button.type = "button";
    text.append(make("span", "", summaryOf(row) || "no text"), button);
    if (row.reason) text.append(make("small", "", row.reason));
    const status = make("td", "nowrap");
    status.append(tag(row));
    line.append(text, status, make("td", "middle", topicOf(row)),
      make("td", "wide", row.language), make("td", "wide", row.step), make("td", "wide nowrap", row.model),
      make("td", "wide number", number(tokensOf(row))), make("td", "wide number nowrap", money(row.cost_usd)));
    line.addEventListener("click", () => open(row));
    line.row = row;
    return line;
  }

  function topicOf(row) {
    if (row.model_a) return `${row.model_a} / ${row.model_b}`;
    return row.tool && row.tool !== "none" ? `${row.category} · ${row.tool}` : row.category || "";
  }

  function tag(row) {
    const label = row.status === "ok" && row.label ? `ok · ${row.label}` : row.status;
    return make("span", `tag ${["ok", "failed", "filtered", "skipped"].includes(row.status) ? row.status : ""}`, label);
  }

  function turnPage(step) {
    const last = Math.max(0, Math.ceil(state.matches.length / PAGE_ROWS) - 1);
    state.page = Math.min(last, Math.max(0, state.page + step));
    show();
    buttons()[0]?.focus();
  }

  const buttons = () => [...byId("rows").querySelectorAll("button.id")];

  // ---- one row ----

  function open(row) {
    state.open = row;
    document.querySelector(".work").classList.add("open");
    document.body.classList.add("reading");
    for (const line of byId("rows").tBodies[0].rows) line.classList.toggle("selected", line.row === row);
    const detail = byId("detail");
    detail.hidden = false;
    detail.replaceChildren(...detailOf(row));
    detail.scrollTop = 0;
    detail.focus({ preventScroll: true });
    history.replaceState(null, "", `#${encodeURIComponent(row.id)}`);
  }

  function close() {
    const row = state.open;
    state.open = null;
    byId("detail").hidden = true;
    document.querySelector(".work").classList.remove("open");
    document.body.classList.remove("reading");
    history.replaceState(null, "", "#");
    for (const line of byId("rows").tBodies[0].rows) {
      line.classList.remove("selected");
      if (line.row === row) line.querySelector("button").focus();
    }
  }

  function step(by) {
    const place = state.matches.indexOf(state.open) + by;
    if (place < 0 || place >= state.matches.length) return;
    state.page = Math.floor(place / PAGE_ROWS);
    state.open = state.matches[place];
    show();
    open(state.matches[place]);
  }

  function detailOf(row) {
    const head = make("header");
    const moves = make("div");
    moves.append(action("Previous", () => step(-1)), action("Next", () => step(1)));
    head.append(moves, action("Close", close));
    const parts = [head, make("h2", "", row.id), tag(row)];
    if (row.reason) parts.push(make("p", "reason", row.reason));
    parts.push(facts(row));
    if (row.text || row.query) parts.push(make("h3", "", "Text"), make("p", "words", row.text || row.query));
    if (row.conversation) parts.push(make("h3", "", "Conversation"), ...conversationParts(row));
    if (row.responses) parts.push(make("h3", "", "Responses"), responses(row.responses.map((item) => [item.model, item.text, false])));
    if (row.dataset === "pairs") parts.push(...pairParts(row));
    parts.push(make("h3", "", "Lineage"), lineage(row));
    parts.push(make("h3", "", "Answers and cost"), ...costParts(row));
    return parts;
  }

  function action(text, run) {
    const button = make("button", "", text);
    button.type = "button";
    button.addEventListener("click", run);
    return button;
  }

  function facts(row) {
    const list = make("dl", "facts");
    for (const [name, value] of Object.entries(row)) {
      if (SHOWN_ELSEWHERE.has(name) || typeof value === "object" || value === "" || value === undefined) continue;
      if (name === "haystack" || name === "prompt_id") continue;
      list.append(make("dt", "", name.replaceAll("_", " ")), make("dd", "", String(value)));
    }
    list.append(make("dt", "", "cost"), make("dd", "", row.cost_usd === "" ? "unknown: a model has no price" : `$${row.cost_usd}`));
    return list;
  }

  function conversationParts(row) {
    const conversation = conversationOf(row);
    if (!conversation) return [make("p", "words", row.conversation)];
    const switches = make("div", "switches");
    switches.append(make("span", "chip", `meta-instruction ${conversation.meta.version}`));
    if (conversation.meta.inner_thoughts) switches.append(make("span", "chip on", "inner thoughts on"));
    for (const tool of conversation.meta.tools) switches.append(make("span", "chip on", `${tool.replaceAll("_", " ")} on`));
    return [switches, ...conversation.turns.map(turnBlock)];
  }

  function turnBlock(turn) {
    const bodies = {
      human: turn.human,
      inner_thoughts: turn.inner_thoughts,
      commands: turn.commands.map(commandText).join(", "),
      results: turn.results.map((result) => `${commandText(result.command)} =>\n${result.text}`).join("\n"),
      moss: turn.moss,
    };
    const block = make("div", "turn");
    for (const [name, title] of SECTIONS) {
      const body = bodies[name];
      const part = make("div", `part ${name}${body ? "" : " none"}`);
      part.append(make("b", "", title));
      if (name === "moss" && turn.quality !== null) part.append(make("span", "chip", `quality ${turn.quality}`));
      part.append(make("p", "", body || (name === "moss" ? "no reply yet" : "None")));
      block.append(part);
    }
    return block;
  }

  const commandText = (command) => `${command.api}(${JSON.stringify(command.argument)})`;

  function responses(items) {
    const grid = make("div", "pair");
    for (const [title, text, won] of items) {
      const box = make("div", won ? "response won" : "response");
      box.append(make("b", "", won ? `${title} · won` : title), make("p", "", text));
      grid.append(box);
    }
    return grid;
  }

  function pairParts(row) {
    const list = make("dl", "facts");
    const seats = { A: "first seat", B: "second seat", tie: "tie", invalid: "not readable" };
    const said = (verdict, first, second) => verdict === "A" ? first : verdict === "B" ? second : seats[verdict] || "not asked";
    list.append(make("dt", "", "as shown"), make("dd", "", said(row.verdict_ab, row.model_a, row.model_b)));
    list.append(make("dt", "", "seats swapped"), make("dd", "", said(row.verdict_ba, row.model_b, row.model_a)));
    return [make("h3", "", "Responses"),
      responses([[row.model_a, row.response_a, row.label === "a"], [row.model_b, row.response_b, row.label === "b"]]),
      make("h3", "", "What the judge said was better"), list];
  }

  function costParts(row) {
    if (!row.calls.length) return [make("p", "soft", "No model was asked for this row.")];
    const table = make("table", "calls");
    const head = make("tr");
    for (const title of ["answer", "model and template", "prompt", "answer", "rows"]) head.append(make("th", title === "model and template" ? "left" : "", title));
    const shared = row.calls.some((call) => call.shared_by > 1);
    table.append(head);
    row.calls.forEach((call, index) => {
      const line = make("tr");
      const made = make("td", "left");
      made.append(make("div", "", call.model), make("div", "soft", call.template), make("div", "key", row.ledger_keys[index] || ""));
      line.append(make("td", "", call.call), made, make("td", "", number(call.prompt_tokens)),
        make("td", "", number(call.completion_tokens)), make("td", "", String(call.shared_by)));
      table.append(line);
    });
    const frame = make("div", "scroll");
    frame.append(table);
    const note = `Tokens of prompt and answer; under each model its template and ledger key.${shared ? " Rows: how many rows share the answer and its cost." : ""}`;
    return [frame, make("p", "soft key", note)];
  }

  // ---- lineage ----

  function lineage(row) {
    if (!row.lineage.length) return make("p", "soft", originOf(row));
    const seen = new Set();
    const tree = make("ul", "tree");
    for (const link of row.lineage) tree.append(branch(link, seen, row.lineage.length < 3));
    return tree;
  }

  const originOf = (row) => ({ seed: "A handwritten seed.", demonstration: "A handmade demonstration.", red_team: "An imported red-team prompt.",
    simulated: "A simulated visitor: no row before it.", user: "A served prompt: no row before it." })[row.source] || "No row before it.";

  function branch([id, index], seen, expanded) {
    const item = make("li");
    const node = index === null ? undefined : data.nodes[index];
    if (!node) {
      item.append(make("div", "leaf", id));
      item.firstChild.append(make("div", "where", "its row is not on this page"));
      return item;
    }
    const repeated = seen.has(index);
    seen.add(index);
    const box = make("details");
    const summary = make("summary", "", node.id);
    summary.append(" ", make("span", "where", [node.run, node.step || node.source].filter(Boolean).join(" · ")));
    box.append(summary);
    const fill = () => {
      if (box.childElementCount > 1) return;
      box.append(...nodeParts(node, repeated, seen));
    };
    box.addEventListener("toggle", fill);
    if (expanded && !repeated) { fill(); box.open = true; }
    item.append(box);
    return item;
  }

  function nodeParts(node, repeated, seen) {
    const parts = [];
    if (node.text) parts.push(make("blockquote", "", node.text));
    for (const [model, template, sharedBy, key] of node.calls) {
      const made = make("p", "made", `${model} · ${template}${sharedBy > 1 ? ` · one answer for ${sharedBy} rows` : ""}`);
      made.append(make("br"), make("span", "key", key));
      parts.push(made);
    }
    if (node.calls.length) parts.push(make("p", "made", `cost ${money(node.cost_usd)}`));
    if (repeated) { parts.push(make("p", "made", "Its parents stand above.")); return parts; }
    if (!node.lineage.length) { parts.push(make("p", "made", originOf(node))); return parts; }
    const tree = make("ul");
    for (const link of node.lineage) tree.append(branch(link, seen, node.lineage.length < 3));
    parts.push(tree);
    return parts;
  }

  // ---- keys and start ----

  function onKey(event) {
    const inField = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "Escape" && state.open) { close(); event.preventDefault(); return; }
    if (inField || event.ctrlKey || event.metaKey || event.altKey) return;
    const list = buttons();
    const place = list.indexOf(document.activeElement);
    const keys = {
      "/": () => byId("query").focus(),
      ArrowDown: () => state.open && place < 0 ? step(1) : list[Math.min(list.length - 1, place + 1)]?.focus(),
      ArrowUp: () => state.open && place < 0 ? step(-1) : list[Math.max(0, place - 1)]?.focus(),
      ArrowRight: () => turnPage(1),
      ArrowLeft: () => turnPage(-1),
    };
    if (keys[event.key]) { keys[event.key](); event.preventDefault(); }
  }

  byId("stage").textContent = `${data.stage} · rows`;
  byId("run").textContent = data.run_id;
  byId("notes").replaceChildren(...data.notes.map((note) => make("p", "note", note)));
  buildFilters();
  let waiting;
  byId("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.query = byId("query").value; filter(); }, 120);
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", () => {
    state.query = "";
    state.chosen = {};
    for (const select of byId("selects").children) select.classList.remove("set");
    filter();
  });
  byId("previous").addEventListener("click", () => turnPage(-1));
  byId("next").addEventListener("click", () => turnPage(1));
  document.addEventListener("keydown", onKey);
  filter();
  const linked = data.rows.find((row) => `#${encodeURIComponent(row.id)}` === location.hash);
  if (linked && !state.matches.includes(linked)) byId("filters").reset();
  if (linked) { state.page = Math.floor(state.matches.indexOf(linked) / PAGE_ROWS); show(); open(linked); }
})();
