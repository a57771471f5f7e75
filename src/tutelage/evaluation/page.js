"use strict";
// Everything that a model or the data wrote goes into the page as a text node, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const CHUNK = 60; // rows added at a time
const SNIPPET = 160; // characters
const KINDS = ["all", "right", "partly", "wrong", "unscored", "cut"];
const state = { show: "all", metric: data.metrics[0], group: "", q: "", sort: "data" };
let shown = []; // rows that pass the filters, in order
let drawn = 0; // how many of them are on the page

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function score(row) {
  return row.scores[data.metrics.indexOf(state.metric)] ?? null;
}

function kindOf(value) {
  if (value === null) return "unscored";
  return value === 1 ? "right" : value === 0 ? "wrong" : "partly";
}

function percent(value) {
  return value === null ? "unscored" : (100 * value).toFixed(1).replace(/\.0$/, "");
}

function haystack(row) {
  const parts = (row.parts ?? []).map((part) => part.name);
  row.found ??= [row.name, row.id, row.prompt, row.response, row.answer, row.reason, ...(row.targets ?? []), ...parts]
    .join("\n").toLowerCase();
  return row.found;
}

/** Text with the searched words marked. */
function marked(text, tag = "span", className = "") {
  const made = element(tag, className);
  const q = state.q.toLowerCase();
  let at = 0;
  const low = q && text.toLowerCase();
  if (q && low.length === text.length) {
    for (let hit = low.indexOf(q); hit >= 0 && made.childNodes.length < 400; hit = low.indexOf(q, at)) {
      made.append(text.slice(at, hit), element("mark", "", text.slice(hit, hit + q.length)));
      at = hit + q.length;
    }
  }
  made.append(text.slice(at));
  return made;
}

/** `text.slice` without half a letter at either end: outside the basic plane a letter is two units. */
function piece(text, start, end) {
  return text.slice(start, end).replace(/^[\udc00-\udfff]|[\ud800-\udbff]$/g, "");
}

/** One line of a text, around the first match if there is one. */
function snippet(text) {
  const flat = piece(text, 0, 20000).replace(/\s+/g, " ").trim();
  const hit = state.q ? flat.toLowerCase().indexOf(state.q.toLowerCase()) : -1;
  const start = Math.max(0, hit - 40);
  const cut = piece(flat, start, start + SNIPPET);
  return (start ? "…" : "") + cut + (start + SNIPPET < flat.length ? "…" : "");
}

function field(label, text, className = "") {
  const box = element("div", "field", element("p", "label", label));
  if (text === null || text === "") box.append(element("p", "none", text === null ? "none" : "empty"));
  else {
    const shownText = marked(text, "div", `text ${className}`);
    shownText.dir = "auto";
    if (className) shownText.tabIndex = 0;
    box.append(shownText);
  }
  return box;
}

function partsOf(row) {
  const list = element("ul", "parts");
  for (const part of row.parts) {
    const value = part.scores[state.metric];
    const kind = value === undefined ? "" : kindOf(value);
    const label = kind === "partly" ? percent(value) : kind;
    const item = element("li", kind, element("b", "", label), " ", marked(part.name));
    if (part.note) item.append(" ", marked(part.note, "span", "quiet"));
    list.append(item);
  }
  return element("div", "field", element("p", "label", "Judged by"), list);
}

function bodyOf(row) {
  const body = element("div", "body");
  const scores = data.labels.map((name, at) => `${name} ${percent(row.scores[at] ?? null)}`);
  const facts = [...scores, `${row.tokens} tokens`, row.finished ? "" : "cut at the length limit"].filter(Boolean);
  if (!data.text) {
    body.append(field("Scores", facts.join(" · ")));
    return body;
  }
  const left = element("div", "", field("Prompt", row.prompt, "scroll"));
  const right = element("div", "", field("Response", row.response, "scroll"));
  if (row.thought) right.append(field(`Answer after a thought of ${row.thought.toLocaleString("en")} characters`, row.said));
  const targets = row.targets.length ? row.targets.join("\n") : null;
  const pair = element("div", "pair");
  if (row.answer === null || row.answer !== (row.said ?? row.response)) pair.append(field("Extracted answer", row.answer));
  if (!row.parts) pair.append(field(row.targets.length > 1 ? "Targets" : "Target", targets));
  right.append(pair, field("Reason", row.reason));
  if (row.parts) right.append(partsOf(row));
  right.append(field("Scores", facts.join(" · ")));
  body.append(left, right);
  return body;
}

function lineOf(row) {
  const value = score(row);
  const kind = kindOf(value);
  const line = element("summary", "", element("span", `badge ${kind}`, kind === "partly" ? percent(value) : kind));
  line.append(marked(row.name, "b", "id"));
  if (row.group && !row.id.startsWith(row.group)) line.append(element("span", "tag", row.group));
  if (!row.finished) line.append(element("span", "tag", "cut"));
  if (!data.text) return line;
  const inPrompt = state.q && !row.response.toLowerCase().includes(state.q.toLowerCase());
  const pair = !row.parts && row.targets.length === 1 && row.targets[0].length <= 40;
  const text = inPrompt ? haystackText(row) : pair && !state.q
    ? `said ${row.answer === null ? "nothing" : snippet(row.answer)}, target ${row.targets[0]}`
    : row.said ?? row.response;
  line.append(marked(snippet(text), "span", "snippet"));
  return line;
}

function haystackText(row) {
  const q = state.q.toLowerCase();
  const texts = [row.prompt, row.answer ?? "", ...row.targets, row.reason, ...(row.parts ?? []).map((part) => part.name)];
  return texts.find((text) => text.toLowerCase().includes(q)) ?? row.response;
}

function rowOf(row, open = false) {
  const box = element("details", "row", lineOf(row));
  const fill = () => { if (box.open && box.childNodes.length === 1) box.append(bodyOf(row)); };
  box.addEventListener("toggle", fill);
  box.open = open;
  fill();
  return box;
}

function more() {
  const rows = shown.slice(drawn, drawn + CHUNK);
  $("rows").append(...rows.map((row) => rowOf(row, shown.length === 1)));
  drawn += rows.length;
  $("more").hidden = drawn >= shown.length;
  $("more").textContent = `Show more (${(shown.length - drawn).toLocaleString("en")} left)`;
}

const TESTS = {
  all: () => true,
  cut: (row) => !row.finished,
  right: (row) => kindOf(score(row)) === "right",
  partly: (row) => kindOf(score(row)) === "partly",
  wrong: (row) => kindOf(score(row)) === "wrong",
  unscored: (row) => score(row) === null,
};
const last = (value) => (value === null ? -1 : value); // unscored rows come before the worst
const SORTS = {
  data: () => 0,
  worst: (a, b) => last(score(a)) - last(score(b)),
  best: (a, b) => last(score(b)) - last(score(a)),
  longest: (a, b) => b.tokens - a.tokens,
};

function update() {
  const q = state.q.toLowerCase();
  const base = data.rows.filter((row) => (!state.group || row.group === state.group) && (!q || haystack(row).includes(q)));
  for (const kind of KINDS) {
    const count = base.filter(TESTS[kind]).length;
    const button = $(`show-${kind}`);
    button.querySelector("span").textContent = count.toLocaleString("en");
    button.hidden = count === 0 && ["partly", "cut"].includes(kind) && state.show !== kind;
    button.setAttribute("aria-pressed", String(state.show === kind));
  }
  shown = base.filter(TESTS[state.show]).sort(SORTS[state.sort]);
  const scored = shown.map(score).filter((value) => value !== null);
  const mean = scored.length ? `, mean ${percent(scored.reduce((a, b) => a + b, 0) / scored.length)}` : "";
  $("count").textContent = shown.length
    ? `${shown.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} examples${mean}`
    : "No example passes these filters.";
  drawn = 0;
  $("rows").replaceChildren();
  more();
  const kept = Object.entries(state).filter(([key, value]) => value && value !== defaults[key]);
  try { history.replaceState(null, "", `#${new URLSearchParams(kept)}`); } catch { /* not allowed everywhere */ }
}

function options(select, values, labels) {
  select.append(...values.map((value, at) => new Option(labels[at], value)));
  select.parentElement.hidden = values.length < 2;
}

const defaults = { ...state };
const groups = [...new Set(data.rows.map((row) => row.group))].filter(Boolean);
options($("metric"), data.metrics, data.labels);
options($("group"), groups.length > 1 ? ["", ...groups] : [], ["all groups", ...groups]);
for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
  const allowed = { show: KINDS, metric: data.metrics, group: groups, sort: Object.keys(SORTS) }[key];
  if (key === "q" || allowed?.includes(value)) state[key] = value;
}
for (const key of ["metric", "group", "sort"]) {
  $(key).value = state[key];
  $(key).addEventListener("change", () => { state[key] = $(key).value; update(); });
}
for (const kind of KINDS) $(`show-${kind}`).addEventListener("click", () => { state.show = kind; update(); });
for (const button of document.querySelectorAll("button[data-group]")) {
  button.addEventListener("click", () => { $("group").value = state.group = button.dataset.group; update(); });
}
let timer = 0;
$("q").value = state.q;
$("q").addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(() => { state.q = $("q").value; update(); }, 150);
});
$("more").addEventListener("click", more);
new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting) && drawn < shown.length) more(); })
  .observe($("more"));
update();
