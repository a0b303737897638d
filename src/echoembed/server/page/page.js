// The page: asks /compare for the same texts under several recipes, and shows what each finds and reads.
"use strict";

const EXAMPLES = [
  ["Early words decide", "The cat that slept all day on the warm stone wall was hungry.", [
    "The dog that slept all day on the warm stone wall was hungry.",
    "The cat that slept all day on the warm stone wall wanted food.",
    "Hungry animals look for food.",
  ]],
  ["Late words decide", "When the rain had stopped, we walked along the river to the old town.", [
    "When the rain had stopped, we walked along the river to the harbour and sailed.",
    "We went into the old town on foot, by the water.",
    "When the rain had stopped, we stayed at home.",
  ]],
  ["A question", "Who waits at the harbour?", [
    "The harbour was built a hundred years ago.",
    "An old man waits for the boats every evening.",
    "Nobody knows when the next train leaves.",
    "Boats rest in the harbour while their crews wait.",
  ]],
];
const byId = (id) => document.getElementById(id);

/** An element with properties and children; texts are texts, never markup. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const short = (text) => (text.length > 70 ? text.slice(0, 69) + "…" : text);
const visible = (text, blank) => text.trim() || (text ? blank : "part of a character");
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

// The state: what is typed, and the address that carries it. A fragment is never sent to any server.

function typed() {
  const texts = byId("texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  return { query: byId("query").value.trim(), texts };
}

function remember({ query, texts }) {
  const state = new URLSearchParams([["q", query], ...texts.map((text) => ["t", text])]);
  history.replaceState(null, "", "#" + state);
}

function recall() {
  const state = new URLSearchParams(location.hash.slice(1));
  return state.has("q") ? { query: state.get("q"), texts: state.getAll("t") } : null;
}

function fill({ query, texts }) {
  byId("query").value = query;
  byId("texts").value = texts.join("\n");
}

// Asking.

function complain(message) {
  byId("error").textContent = message;
  byId("error").hidden = !message;
  if (message) byId("results").hidden = true;
}

let latest = new AbortController();

function busy(is) {
  byId("rank").disabled = is;
  if (is) document.body.setAttribute("aria-busy", "true");
  else document.body.removeAttribute("aria-busy");
}

/** Asks for what is typed; an earlier request is given up, for its answer would be to texts that are typed no more. */
async function rank() {
  latest.abort();
  busy(false);
  const asked = typed();
  if (!asked.query) { complain("Type a query first."); byId("query").focus(); return; }
  if (!asked.texts.length) { complain("Type at least one text to rank."); byId("texts").focus(); return; }
  remember(asked);
  latest = new AbortController();
  const { signal } = latest;
  busy(true);
  try {
    const answer = await fetch("/compare", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
      signal,
    });
    const content = await answer.json();
    if (signal.aborted) return;
    if (!answer.ok) throw new Error(content.detail);
    complain("");
    show(asked, content);
  } catch (error) {
    if (signal.aborted) return;
    complain(error instanceof TypeError ? "The server does not answer. Is it still running?" : error.message);
  } finally {
    if (!signal.aborted) busy(false);
  }
}

// Showing what was found.

function show(asked, found) {
  byId("model").textContent = `Model: ${found.model}`;
  byId("recipes").replaceChildren(...found.recipes.map((recipe) => card(asked, recipe)));
  const names = [`the query: ${short(asked.query)}`, ...asked.texts.map((text, at) => `text ${at + 1}: ${short(text)}`)];
  byId("which").replaceChildren(...names.map((name, at) => make("option", { value: at }, name)));
  byId("which").onchange = () => showPrompts(found, Number(byId("which").value));
  showPrompts(found, 0);
  byId("results").hidden = false;
}

function card(asked, recipe) {
  const order = recipe.scores.map((_, at) => at).sort((a, b) => recipe.scores[b] - recipe.scores[a]);
  const title = make("h3", { id: `recipe-${recipe.name}` }, recipe.name);
  const cost = `${(recipe.seconds * 1000).toFixed(0)} ms of the model for ${plural(recipe.tokens, "token")}`;
  return make("section", { className: "card", "aria-labelledby": title.id },
    title,
    make("p", { className: "quiet cost" }, recipe.served ? `${cost}; this recipe is served` : cost),
    make("ol", { className: "ranking", "aria-label": `Texts by ${recipe.name}` },
      ...order.map((at, place) => ranked(asked.texts[at], recipe.scores[at], place))),
    make("h4", {}, "Similarity of the texts"),
    make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": `Similarity by ${recipe.name}` },
      matrix(recipe)));
}

function ranked(text, score, place) {
  const bar = make("div", { className: "bar" });
  bar.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
  return make("li", {},
    make("span", { className: "place" }, `${place + 1}.`),
    make("span", { className: "text" }, text),
    make("span", { className: "score" }, score.toFixed(3)),
    make("div", { className: "track", "aria-hidden": "true" }, bar));
}

function matrix({ name, similarity }) {
  const numbers = similarity.map((_, at) => make("th", { scope: "col" }, String(at + 1)));
  const rows = similarity.map((row, at) => make("tr", {},
    make("th", { scope: "row" }, String(at + 1)),
    ...row.map((value) => {
      const cell = make("td", {}, value.toFixed(2));
      cell.style.background = `rgb(var(--heat) / ${Math.max(0, value) ** 2 * 0.55})`;
      return cell;
    })));
  return make("table", { "aria-label": `Cosine of every text with every other, by ${name}` },
    make("thead", {}, make("tr", {}, make("td", {}), ...numbers)), make("tbody", {}, ...rows));
}

// Showing what was read.

function showPrompts(found, which) {
  const shown = found.recipes.map((recipe) => {
    const prompt = which === 0 ? recipe.query : recipe.texts[which - 1];
    return promptCard(recipe.name, prompt, found.causal);
  });
  byId("prompts").replaceChildren(...shown);
}

function promptCard(name, prompt, causal) {
  const length = prompt.span[1] - prompt.span[0];
  const whole = Array.from({ length }, (_, at) => seenBy(prompt, prompt.span[0] + at, causal)).filter((seen) => seen.whole);
  const seen = make("p", { className: "seen quiet", role: "status" });
  const dropped = prompt.dropped ? ` ${plural(prompt.dropped, "token")} of the text did not fit and were not read.` : "";
  return make("section", { className: "card", "aria-label": `Prompt of ${name}` },
    make("h3", {}, name),
    make("p", { className: "verdict" }, `${whole.length} of ${plural(length, "pooled token")} have seen the whole text.`),
    tokens(name, prompt, causal, seen),
    seen,
    make("p", { className: "quiet" }, `${plural(prompt.tokens.length, "token")} in all.${dropped}`));
}

/** What the token at a place has seen of the text: of a causal model, all up to itself. */
function seenBy(prompt, at, causal) {
  if (!causal) return { whole: true, again: 0, part: 0 };
  const counts = prompt.copies.map(([start, stop]) => Math.max(0, Math.min(at + 1, stop) - start));
  const size = prompt.copies[0][1] - prompt.copies[0][0];
  return { whole: counts.some((count) => count === size), part: Math.max(0, ...counts), again: counts.at(-1) ?? 0 };
}

function sentence(prompt, at, causal) {
  const size = prompt.copies[0][1] - prompt.copies[0][0];
  const { whole, part, again } = seenBy(prompt, at, causal);
  const token = `“${visible(prompt.tokens[at].text, "␣")}”`;
  if (!causal) return `${token} sees every token: attention here goes both ways.`;
  if (!part) return `${token} comes before the text and has seen nothing of it.`;
  if (!whole) return `${token} has seen ${part} of the text’s ${plural(size, "token")}.`;
  if (prompt.copies.length < 2) return `${token} has seen the whole text.`;
  return `${token} has seen the whole text` + (again ? `, and ${again} of its ${plural(size, "token")} a second time.` : ".");
}

function tokens(name, prompt, causal, seen) {
  const spans = prompt.tokens.map((token, at) => make("span", {
    className: ["token", token.pooled && "pooled", token.special && "special"].filter(Boolean).join(" "),
    tabIndex: at === prompt.span[0] ? 0 : -1,
    role: "option",
    "aria-label": `${visible(token.text, "blank")}${token.pooled ? ", pooled" : ""}`,
    "aria-selected": "false",
  }, token.text));
  const choose = (at) => {
    spans.forEach((span, place) => {
      span.classList.toggle("unseen", causal && at !== null && place > at);
      span.classList.toggle("chosen", place === at);
      span.setAttribute("aria-selected", String(place === at));
    });
    seen.textContent = at === null ? "" : sentence(prompt, at, causal);
  };
  const move = (event, at) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -at, End: spans.length - 1 - at };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = Math.max(0, Math.min(spans.length - 1, at + steps[event.key]));
    spans[at].tabIndex = -1;
    spans[next].tabIndex = 0;
    spans[next].focus();
  };
  spans.forEach((span, at) => {
    span.addEventListener("mouseenter", () => choose(at));
    span.addEventListener("focus", () => choose(at));
    span.addEventListener("click", () => span.focus());
    span.addEventListener("keydown", (event) => move(event, at));
  });
  const box = make("div", { className: "tokens", role: "listbox", "aria-label": `Tokens of ${name}` }, ...spans);
  box.addEventListener("mouseleave", () => choose(spans.includes(document.activeElement) ? spans.indexOf(document.activeElement) : null));
  box.addEventListener("focusout", () => choose(null));
  return box;
}

// Beginning.

byId("form").addEventListener("submit", (event) => { event.preventDefault(); rank(); });
byId("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); rank(); }
});
byId("copy").addEventListener("click", async () => {
  remember(typed());
  try {
    await navigator.clipboard.writeText(location.href);
    byId("copied").textContent = "Copied.";
  } catch {
    byId("copied").textContent = "The link is in the address bar.";
  }
});
byId("examples").append(...EXAMPLES.map(([name, query, texts]) => {
  const button = make("button", { type: "button", className: "second" }, name);
  button.addEventListener("click", () => { fill({ query, texts }); rank(); });
  return button;
}));
window.addEventListener("hashchange", () => { const state = recall(); if (state) { fill(state); rank(); } });
fill(recall() ?? { query: EXAMPLES[0][1], texts: EXAMPLES[0][2] });
rank();
