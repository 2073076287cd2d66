// The page: connects data, views and user actions. Renders at most once per animation frame.

import { Chart } from "/console/chart.js";
import { $, element, glyph } from "/console/dom.js";
import { Feed, ask } from "/console/feed.js";
import { Inspecting } from "/console/inspect.js";
import { keys } from "/console/keys.js";
import { List } from "/console/list.js";
import { login } from "/console/login.js";
import { Stage } from "/console/stage.js";
import { Store } from "/console/store.js";
import { theme } from "/console/theme.js";
import { THRESHOLD, changes, csv, number, rawAt, service } from "/console/verdicts.js";

const store = new Store();
const stage = new Stage(() => hold(null));
const list = new List($("list"), (record) => hold(record));
const chart = new Chart($("scores"), (score) => tryThreshold(score), (record) => hold(record));
const inspecting = new Inspecting(store, (record, urls) => stage.hold(record, urls));
const feed = new Feed({ state: onState, verdicts: onVerdicts, link: onLink });
const PAUSE = 800; // ms between updates with live verdicts: keeps the list calm and image requests few
let added = 0;
let drawing = false;
let drawn = -Infinity;
let later = null;
let paused = false; // since the last message
let picked = ""; // the product chosen by the user; empty: all, or the only one
let worst = null;

function onState(state) {
  if (store.begin(state.history)) {
    stage.clear();
    worst = null; // a verdict from before the restart must not be shown
    added = 0;
  }
  store.choose({ products: state.products, ready: state.ready, reason: state.reason });
  const names = state.products.map((product) => product.name);
  const product = names.includes(picked) ? picked : names.length === 1 ? names[0] : "";
  if (product !== store.product) {
    store.choose({ product });
    if (worst && !store.matches(worst, "ALL")) worst = null;
    added = 0;
  }
  inspecting.refresh();
  showProducts();
  showAlarm();
  draw();
}

function onVerdicts(message) {
  service.set(message.now);
  for (const record of message.records) record.order = Number(record.id.split("-")[1]);
  const caughtUp = store.records.length > 0 && !paused;
  paused = false;
  const fresh = store.add(message);
  showAlarm();
  added += fresh.filter((record) => store.matches(record)).length;
  if (!caughtUp) stage.offer(store.newest() ?? null, true);
  else offerWorst(fresh.filter((record) => store.matches(record, "ALL")));
  drawSoon();
}

/** Shows the worst verdict since the lamp last changed, so that none that needs attention is missed. */
function offerWorst(fresh) {
  const rank = { OK: 0, REVIEW: 1, NG: 2 };
  for (const record of fresh.toReversed()) {
    if (!worst || rank[record.verdict] >= rank[worst.verdict]) worst = record;
  }
  if (!worst || !stage.offer(worst)) return;
  worst = null;
  drawSoon();
}

function onLink(link) {
  $("link").dataset.link = link;
  $("link-text").textContent = { live: "Live", connecting: "Connecting", paused: "Paused", gone: "No connection" }[link];
  if (link === "paused") [paused, worst] = [true, null]; // it goes on with the newest
  stage.stale(link !== "live");
  showAlarm();
}

function showAlarm() {
  const alarm = $("alarm");
  const missed = store.missed();
  let text = "";
  if (feed.why) text = `${feed.why}. What is shown is old; parts may pass unseen. Trying again…`;
  else if (!store.ready) text = `Not ready: ${store.reason}`;
  else if (missed) text = `${missed === 1 ? "1 part was" : `${missed} parts were`} not inspected in the last minute: refused, too late, failed or given up by their caller.`;
  alarm.dataset.kind = feed.why ? "error" : "warning";
  if (alarm.textContent !== text) alarm.textContent = text;
  alarm.hidden = !text;
}

function drawSoon() {
  later ??= setTimeout(draw, Math.max(0, drawn + PAUSE - performance.now()));
}

function draw() {
  clearTimeout(later);
  later = null;
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    drawn = performance.now();
    const records = store.shown();
    list.show(records, { added, chosen: stage.held ?? stage.current, threshold: store.threshold, several: !store.product && store.products.length > 1 });
    added = 0;
    $("empty").hidden = records.length > 0;
    const scored = store.of();
    chart.show(scored, store.threshold, stage.held ?? stage.current);
    showTally();
    showFilters(scored);
    showChanges(scored);
  });
}

function showProducts() {
  const serving = (product) => (product.serving ? "READY" : product.state);
  const tab = (name, label, state, note) => {
    const button = element("button", { "aria-pressed": store.product === name, title: note });
    button.dataset.product = name;
    if (state) {
      button.dataset.state = state;
      button.append(glyph({ READY: "OK", FAILED: "NG" }[state] ?? "REVIEW"));
    }
    button.append(label);
    if (note) button.append(element("small", {}, note));
    button.addEventListener("click", () => chooseProduct(name));
    return button;
  };
  const note = (product) => {
    const { serving: now, state, version, reason } = product;
    const newer = now && version !== now.version ? `, v${version} ${state}` : "";
    return now ? `v${now.version} ready${newer}` : `v${version} ${state}${reason ? `: ${reason}` : ""}`;
  };
  const tabs = store.products.map((product) => tab(product.name, product.name, serving(product), note(product)));
  if (tabs.length > 1) tabs.unshift(tab("", "All", "", ""));
  const focused = document.activeElement?.dataset.product;
  $("products").replaceChildren(...tabs);
  tabs.find((tab) => tab.dataset.product === focused)?.focus({ preventScroll: true });
}

function chooseProduct(name) {
  picked = name;
  store.choose({ product: name });
  added = 0;
  list.box.scrollTop = 0;
  showProducts();
  $("products").querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  hold(null);
}

function showTally() {
  const names = { OK: "OK", REVIEW: "REVIEW", NG: "NG", NOT_INSPECTED: "not inspected" };
  const sums = store.tally();
  $("tally").title = "Since the service started";
  if (!$("tally").children.length) {
    $("tally").append(...Object.entries(names).map(([name, label]) => {
      const cell = element("div", {}, element("dt", {}, label), element("dd", {}, "0"));
      cell.dataset.verdict = name;
      return cell;
    }));
  }
  for (const cell of $("tally").children) {
    const text = sums[cell.dataset.verdict].toLocaleString("en-GB");
    cell.dataset.some = sums[cell.dataset.verdict] > 0;
    if (cell.lastChild.textContent !== text) cell.lastChild.textContent = text;
  }
}

function showFilters(records) {
  const names = ["ALL", "NG", "REVIEW", ...(store.threshold === THRESHOLD ? [] : ["CHANGED"])];
  const labels = { ALL: "All", NG: "NG", REVIEW: "REVIEW", CHANGED: "Changed" };
  const box = $("filters");
  if (box.children.length !== names.length) {
    box.replaceChildren(...names.map((name) => {
      const button = element("button", {});
      button.dataset.filter = name;
      button.addEventListener("click", () => chooseFilter(name));
      return button;
    }));
  }
  for (const button of box.children) {
    const name = button.dataset.filter;
    const count = records.reduce((sum, record) => sum + store.matches(record, name), 0);
    button.textContent = `${labels[name]} ${count}`;
    button.setAttribute("aria-pressed", store.filter === name);
  }
}

function chooseFilter(filter) {
  store.choose({ filter });
  list.box.scrollTop = 0;
  draw();
}

function tryThreshold(score) {
  const threshold = Number(score);
  store.choose({ threshold, filter: threshold === THRESHOLD && store.filter === "CHANGED" ? "ALL" : store.filter });
  $("threshold").value = threshold;
  stage.tryThreshold(threshold);
  draw();
}

function showChanges(records) {
  const { threshold } = store;
  $("threshold-value").textContent = number(threshold);
  $("threshold-reset").disabled = threshold === THRESHOLD;
  const name = store.product || "all products";
  $("chart-title").textContent = `Scores of ${name}`;
  const over = records.filter((record) => record.score >= THRESHOLD).length;
  $("scores").setAttribute("aria-label", `The newest ${records.length} scores of ${name}, one after the other and as a histogram; ${over} of them at the threshold ${THRESHOLD} or over it.`);
  const text = $("changes");
  if (threshold === THRESHOLD) {
    text.textContent = records.length ? `${records.length} verdicts remembered. Drag the threshold, or the slider, to see what another one would have changed.` : "";
    return;
  }
  const ways = [...changes(records, threshold)];
  const serving = store.products.find((product) => product.name === store.product)?.serving;
  const raw = serving ? ` Raw score ${number(rawAt(threshold, serving.raw_median, serving.raw_threshold), 4)} instead of ${number(serving.raw_threshold, 4)}.` : "";
  const what = ways.length ? ways.map(([way, count]) => element("b", {}, `${count} ${way}  `)) : ["No verdict would have changed."];
  text.replaceChildren(`Of ${records.length}: `, ...what, `${raw} Nothing is changed on the server.`);
}

/** Shows one record until the next call; null: live. */
function hold(record) {
  if (record) stage.hold(record);
  else {
    stage.hold(null);
    worst = null;
    stage.offer(store.newest() ?? null, true);
  }
  draw();
}

function step(by) {
  const records = store.shown();
  if (!records.length) return;
  const now = records.findIndex((record) => record.id === stage.held?.id);
  const next = Math.min(records.length - 1, Math.max(0, now < 0 ? 0 : now + by));
  hold(records[next]);
  list.reveal(next);
}

function save() {
  const url = URL.createObjectURL(new Blob([csv(store.shown())], { type: "text/csv" }));
  element("a", { href: url, download: `verdicts-${store.product || "all"}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

ask.denied = () => {
  feed.close();
  login.show();
};
login.done = () => feed.open();
theme(() => chart.retheme());
$("threshold").addEventListener("input", (event) => tryThreshold(event.target.value));
$("threshold-reset").addEventListener("click", () => tryThreshold(THRESHOLD));
$("try").addEventListener("submit", (event) => event.preventDefault());
$("save").addEventListener("click", save);
$("back").addEventListener("click", () => hold(null));
$("wide").addEventListener("click", () => $("wide").setAttribute("aria-pressed", document.body.classList.toggle("is-wide")));
$("open-inspect").addEventListener("click", () => inspecting.show());
$("open-help").addEventListener("click", () => $("help").showModal());
for (const button of document.querySelectorAll("dialog .close")) button.addEventListener("click", () => button.closest("dialog").close());
keys({
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  j: () => step(1),
  k: () => step(-1),
  Escape: () => hold(null),
  1: () => chooseFilter("ALL"),
  2: () => chooseFilter("NG"),
  3: () => chooseFilter("REVIEW"),
  p: () => {
    const names = [...(store.products.length > 1 ? [""] : []), ...store.products.map((product) => product.name)];
    if (names.length) chooseProduct(names[(names.indexOf(store.product) + 1) % names.length]);
  },
  i: () => inspecting.show(),
  h: () => fade($("opacity").value > 0 ? 0 : 70),
  o: () => $("show-outline").click(),
  r: () => $("show-regions").click(),
  ",": () => fade(Number($("opacity").value) - 10),
  ".": () => fade(Number($("opacity").value) + 10),
  f: () => $("wide").click(),
  t: () => $("theme").click(),
  "?": () => $("help").showModal(),
});

function fade(value) {
  $("opacity").value = value;
  $("opacity").dispatchEvent(new Event("input"));
}

feed.open();
setInterval(() => {
  offerWorst([]);
  stage.tick();
}, 250);
