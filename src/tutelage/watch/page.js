"use strict";
// Asks every two seconds, one question at a time, for what is new. All texts go into the page as text, never as HTML.

const EVERY = 2000; // ms between an answer and the next question
const WIDTH = 360, HEIGHT = 144, LEFT = 44, BOTTOM = 18, TOP = 8, RIGHT = 6; // of a drawing
const COLUMNS = 300; // a curve of more points is drawn as the extremes of so many columns
const ORDER = ["running", "failed", "blocked", "stopped", "queued", "done"];
const WORDS = { running: "running", failed: "failed", blocked: "not begun", stopped: "stopped", queued: "queued", done: "done" };
const CURVES = [["loss", "loss"], ["learning_rate", "learning rate"], ["speed", ""]];
const cards = new Map(); // by a run's name: its elements, points and samples

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawn(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min`;
  const minutes = Math.round(seconds / 60);
  return minutes < 2880 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${Math.round(minutes / 1440)} days`;
}

function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace("e+", "e");
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
}

// --- curves ---

function fresh() {
  return { begun: 0, known: 0, step: [], loss: [], validation_loss: [], learning_rate: [], sampled_tokens_per_s: [], tokens_per_s: [] };
}

// Adds the new points; a file that began anew replaces all of them.
function extend(points, news) {
  if (!news.first) Object.assign(points, fresh());
  points.begun = news.begun;
  points.known = news.known;
  for (const name of Object.keys(points)) if (Array.isArray(points[name])) points[name].push(...(news[name] || []));
}

// Pairs [step, value] of a curve, where there is a value.
function pairs(points, name) {
  const out = [];
  points[name].forEach((value, i) => { if (value !== null && points.step[i] !== null) out.push([points.step[i], value]); });
  return out;
}

function thinned(all) {
  if (all.length <= 2 * COLUMNS) return all;
  const out = [], size = all.length / COLUMNS;
  for (let column = 0; column < COLUMNS; column++) {
    const part = all.slice(Math.floor(column * size), Math.floor((column + 1) * size));
    let low = part[0], high = part[0];
    for (const pair of part) { if (pair[1] < low[1]) low = pair; if (pair[1] > high[1]) high = pair; }
    out.push(...(low[0] <= high[0] ? [low, high] : [high, low]));
  }
  out.push(all[all.length - 1]);
  return out;
}

// The mean of the last points before each, a fiftieth of all.
function means(all) {
  const size = Math.max(5, Math.round(all.length / 50)), out = [];
  let sum = 0;
  all.forEach((pair, i) => {
    sum += pair[1] - (i >= size ? all[i - size][1] : 0);
    out.push([pair[0], sum / Math.min(size, i + 1)]);
  });
  return out;
}

function draw(figure, all, other, smooth) {
  const { svg } = figure;
  svg.replaceChildren();
  figure.all = all;
  if (!all.length) return;
  const values = [...all, ...other].map((pair) => pair[1]);
  let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  if (!smooth || low > 0 && low < (high - low) / 2) low = Math.min(low, 0);
  if (high === low) { high += Math.abs(high) / 10 || 1; low -= Math.abs(low) / 10; }
  const first = all[0][0], last = Math.max(all[all.length - 1][0], first + 1);
  const x = (step) => LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM);
  for (const value of [low, (low + high) / 2, high]) {
    svg.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) }));
    const label = drawn("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" });
    label.textContent = number(value);
    svg.append(label);
  }
  for (const [step, anchor] of [[first, "start"], [last, "end"]]) {
    const label = drawn("text", { x: x(step), y: HEIGHT - 3, "text-anchor": anchor });
    label.textContent = anchor === "end" ? `step ${step}` : String(step);
    svg.append(label);
  }
  const line = (some, name) => {
    const path = thinned(some).map((pair, i) => `${i ? "L" : "M"}${x(pair[0]).toFixed(1)} ${y(pair[1]).toFixed(1)}`);
    svg.append(drawn("path", { class: name, d: path.join("") + (some.length === 1 ? "h1" : "") }));
  };
  const many = smooth && all.length > 20;
  svg.setAttribute("class", many ? "smoothed" : "");
  line(all, "raw");
  if (many) line(means(all), "mean");
  if (other.length) line(other, "other");
  figure.at = (place) => first + (place * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * (last - first);
  figure.cursor = drawn("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  figure.x = x;
  svg.append(figure.cursor);
}

function makeFigure(title) {
  const root = element("figure"), caption = element("figcaption"), name = element("b", "", title), shown = element("span");
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": title });
  const figure = { root, name, shown, svg, all: [], latest: "" };
  caption.append(name, shown);
  root.append(caption, svg);
  svg.addEventListener("pointermove", (event) => {
    if (!figure.all.length) return;
    const box = svg.getBoundingClientRect(), step = figure.at((event.clientX - box.left) / box.width);
    const near = figure.all.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
    figure.cursor.setAttribute("x1", figure.x(near[0]));
    figure.cursor.setAttribute("x2", figure.x(near[0]));
    figure.cursor.setAttribute("visibility", "visible");
    say(shown, `step ${near[0]}: ${number(near[1])}`);
  });
  svg.addEventListener("pointerleave", () => {
    if (figure.cursor) figure.cursor.setAttribute("visibility", "hidden");
    say(shown, figure.latest);
  });
  return figure;
}

function drawAll(card) {
  const { points, figures } = card;
  const speed = points.sampled_tokens_per_s.some((value) => value !== null) ? "sampled_tokens_per_s" : "tokens_per_s";
  for (const [key] of CURVES) {
    const figure = figures[key], name = key === "speed" ? speed : key, all = pairs(points, name);
    const other = key === "loss" ? pairs(points, "validation_loss") : [];
    if (key === "speed") say(figure.name, speed === "tokens_per_s" ? "tokens/s" : "sampled tokens/s");
    figure.root.hidden = !all.length;
    draw(figure, all, other, key === "loss");
    figure.latest = all.length ? number(all[all.length - 1][1]) : "";
    if (other.length) figure.latest += `, validation ${number(other[other.length - 1][1])}`;
    say(figure.shown, figure.latest);
  }
}

// --- runs ---

function makeCard(name) {
  const root = element("details"), summary = element("summary"), body = element("div", "body");
  const card = { root, body, points: fresh(), figures: {}, began: false };
  card.name = element("span", "name");
  card.seed = element("small");
  card.title = element("span");
  card.name.append(card.title, card.seed);
  card.state = element("span", "state");
  card.word = element("span");
  card.bar = element("progress");
  card.state.append(card.word, card.bar);
  card.value = element("span", "value");
  summary.append(element("span", "dot"), card.name, card.state, card.value);
  card.reason = element("p", "reason");
  card.curves = element("div", "curves");
  for (const [key, title] of CURVES) {
    card.figures[key] = makeFigure(title);
    card.figures[key].root.hidden = true;
    card.curves.append(card.figures[key].root);
  }
  card.empty = element("p", "quiet empty", "no points yet");
  card.samples = element("div", "samples");
  body.append(card.reason, card.curves, card.empty, card.samples);
  body.append(element("p", "quiet folder", name));
  root.append(summary, body);
  summary.addEventListener("click", () => setTimeout(() => root.open && ask(), 0)); // the click opens it after this
  return card;
}

function moment(seconds) {
  return new Date(seconds * 1000).toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
}

function value(run) {
  if (run.state === "running") {
    const left = run.eta === null ? "" : `, about ${duration(run.eta)} left`;
    return run.step ? `step ${run.step}${run.steps ? ` of ${run.steps}` : ""}${left}` : "";
  }
  if (run.state === "done") {
    const score = run.score && `${run.score.metric} ${number(run.score.value)}${run.score.stderr === null ? "" : ` ± ${number(run.score.stderr)}`}`;
    return [score, run.seconds !== null && `took ${duration(run.seconds)}`].filter(Boolean).join(", ");
  }
  return run.reason || "";
}

function showRun(card, run) {
  card.run = run;
  card.root.className = ORDER.includes(run.state) ? run.state : "";
  if (run.state === "running" && !card.began) {
    card.began = true;
    if (document.querySelectorAll("details[open]").length < 4) card.root.open = unseen = true;
  }
  say(card.title, String(run.stage ?? run.name));
  const seed = run.seed === null || run.seed === undefined ? "" : `seed ${run.seed}`; // `when`: of runs that else look alike
  say(card.seed, [seed, run.when && moment(run.when)].filter(Boolean).join(", "));
  say(card.word, WORDS[run.state] || run.state);
  card.bar.hidden = !(run.state === "running" && run.steps);
  if (!card.bar.hidden) { card.bar.max = run.steps; card.bar.value = run.step; }
  say(card.value, value(run));
  card.reason.hidden = !run.damaged;
  say(card.reason, `${run.damaged} damaged lines are left out`);
  say(card.empty, run.state === "running" ? "no points yet" : "no curve");
}

function showSamples(card, samples) {
  card.samples.replaceChildren(...[...samples].reverse().map((sample) => {
    const box = element("div", "sample");
    box.append(element("p", "label", `step ${sample.step}: prompt`), element("p", "text prompt", sample.prompt));
    box.append(element("p", "label", sample.cut ? "the student's answer (cut at its longest)" : "the student's answer"));
    box.append(element("p", "text answer", sample.answer || "(empty)"));
    return box;
  }));
}

function showList(list, items) {
  const text = JSON.stringify(items.map(([key]) => key));
  if (list.dataset.shown === text) return;
  list.dataset.shown = text;
  list.replaceChildren(...items.map(([, make]) => make()));
  list.hidden = !items.length;
}

function show(news) {
  say(document.getElementById("folder"), news.folder);
  const counts = {};
  for (const run of news.runs) counts[run.state] = (counts[run.state] || 0) + 1;
  showList(document.getElementById("counts"), ORDER.filter((state) => counts[state]).map((state) => [`${counts[state]} ${state}`, () => {
    const item = element("li");
    item.append(element("b", "", String(counts[state])), ` ${WORDS[state]}`);
    return item;
  }]));
  showList(document.getElementById("reports"), news.reports.map((report) => [`${report.name} ${report.changed}`, () => {
    const item = element("li"), link = element("a", "", `report: ${report.name}`);
    link.href = `reports/${encodeURIComponent(report.name)}/`;
    link.target = "_blank";
    link.rel = "noopener";
    item.append(link);
    return item;
  }]));
  document.title = `${counts.running ? `${counts.running} running · ` : ""}${news.folder} · Tutelage`;
  const box = document.getElementById("runs"), names = new Set(news.runs.map((run) => run.name));
  for (const [name, card] of cards) if (!names.has(name)) { card.root.remove(); cards.delete(name); }
  const sorted = [...news.runs].sort((a, b) => ORDER.indexOf(a.state) - ORDER.indexOf(b.state)
    || (b.ended || 0) - (a.ended || 0));
  sorted.forEach((run, place) => {
    let card = cards.get(run.name);
    if (!card) cards.set(run.name, card = makeCard(run.name));
    if (box.children[place] !== card.root) box.insertBefore(card.root, box.children[place] || null);
    showRun(card, run);
  });
  for (const [name, points] of Object.entries(news.curves)) {
    const card = cards.get(name);
    if (!card) continue;
    const changed = points.begun !== card.points.begun || points.known !== card.points.known || !points.first;
    if (!changed) continue;
    extend(card.points, points);
    drawAll(card);
    card.empty.hidden = card.points.known > 0;
    if (points.samples) showSamples(card, points.samples);
  }
  document.getElementById("none").hidden = news.runs.length > 0;
  document.getElementById("filter").hidden = news.runs.length < 12;
  filter();
}

function filter() {
  const wanted = document.getElementById("filter").value.trim().toLowerCase();
  for (const [name, card] of cards) {
    card.root.hidden = wanted !== "" && !`${name} ${card.run.stage} ${card.run.state}`.toLowerCase().includes(wanted);
  }
}

// --- questions ---

let timer = 0, asking = false, failures = 0, unseen = false; // unseen: a run was opened whose points were not asked for

async function ask() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  const link = document.getElementById("link"), have = {};
  for (const [name, card] of cards) if (card.root.open && !card.root.hidden) have[name] = [card.points.begun, card.points.known];
  try {
    const answer = await fetch("news", { method: "POST", body: JSON.stringify(have) });
    if (!answer.ok) throw new Error(`${answer.status}`);
    show(await answer.json());
    failures = 0;
    link.className = "quiet";
    say(link, `as of ${new Date().toLocaleTimeString()}`);
  } catch (error) {
    failures += 1;
    link.className = "quiet lost";
    say(link, "the server does not answer: this is its last state (`tutelage watch` shows it again)");
  }
  asking = false;
  // In a hidden tab nothing is asked; a server that does not answer is asked ever more rarely.
  if (!document.hidden) timer = setTimeout(ask, unseen ? 0 : Math.min(EVERY * 2 ** failures, 30000));
  unseen = false;
}

document.getElementById("filter").addEventListener("input", filter);
document.addEventListener("visibilitychange", () => document.hidden || ask());
ask();
