// The list of verdicts: only the visible rows are in the document, and are reused.

import { element, glyph, setGlyph } from "/console/dom.js";
import { REASONS, clock, judged, milliseconds, number, part } from "/console/verdicts.js";

const ROW = 68; // pixels, as in layout.css
const SPARE = 1;

export class List {
  constructor(box, onChoose) {
    this.box = box;
    this.records = [];
    this.rows = new Map();
    this.idle = [];
    this.room = element("div", { className: "room", role: "presentation" });
    box.append(this.room);
    box.addEventListener("scroll", () => requestAnimationFrame(() => this.#lay()), { passive: true });
    box.addEventListener("click", (event) => {
      const row = event.target.closest(".row-item");
      if (row) onChoose(row.record);
    });
    new ResizeObserver(() => this.#lay()).observe(box);
  }

  /** Shows `records`, of which `added` are new at the top. A scrolled list keeps its position. */
  show(records, { added = 0, chosen = null, threshold, several }) {
    if (several !== this.several) this.#clear(this.rows.keys());
    Object.assign(this, { records, chosen, threshold, several });
    this.room.style.height = `${records.length * ROW}px`;
    if (added && this.box.scrollTop > ROW / 2) this.box.scrollTop += added * ROW;
    this.#lay();
  }

  reveal(index) {
    const top = index * ROW;
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.box.scrollTop = top + ROW - clientHeight;
  }

  #lay() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - SPARE);
    const count = Math.ceil(this.box.clientHeight / ROW) + 2 * SPARE;
    const wanted = this.records.slice(first, first + count);
    const ids = new Set(wanted.map((record) => record.id));
    this.#clear([...this.rows.keys()].filter((id) => !ids.has(id)));
    wanted.forEach((record, place) => this.#place(record, first + place));
    const active = this.chosen && this.rows.get(this.chosen.id);
    if (active) this.box.setAttribute("aria-activedescendant", active.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  #clear(ids) {
    for (const id of [...ids]) {
      const row = this.rows.get(id);
      this.rows.delete(id);
      row.hidden = true;
      row.parts.image.removeAttribute("src"); // it would stay until the next record's has come
      this.idle.push(row);
    }
  }

  #place(record, index) {
    let row = this.rows.get(record.id);
    if (!row) {
      row = this.idle.pop() ?? this.box.appendChild(makeRow());
      fill(row, record, this.several);
      row.hidden = false;
      this.rows.set(record.id, row);
    }
    row.style.transform = `translateY(${index * ROW}px)`;
    row.setAttribute("aria-posinset", index + 1);
    row.setAttribute("aria-setsize", this.records.length);
    row.setAttribute("aria-selected", record.id === this.chosen?.id);
    const then = judged(record, this.threshold);
    row.parts.then.textContent = then === record.verdict ? "" : `→ ${then}`;
  }
}

function makeRow() {
  const parts = {
    image: element("img", { alt: "", decoding: "async", width: 52, height: 52 }),
    glyph: glyph("NONE"),
    verdict: element("span"),
    then: element("span", { className: "then" }),
    line: element("span", { className: "line" }),
    fill: element("i"),
    score: element("span"),
    time: element("span", { className: "time" }),
  };
  parts.image.addEventListener("error", () => parts.image.removeAttribute("src"));
  const bar = element("span", { className: "bar", "aria-hidden": "true" }, parts.fill);
  const row = element(
    "div",
    { className: "row-item", role: "option", id: `row-${makeRow.made++}` },
    parts.image,
    element("span", { className: "what" }, parts.glyph, parts.verdict, parts.then),
    parts.line,
    element("span", { className: "score" }, bar, parts.score),
    parts.time,
  );
  row.parts = parts;
  return row;
}
makeRow.made = 0;

function fill(row, record, several) {
  const { parts } = row;
  row.record = record;
  row.dataset.signal = record.verdict;
  if (record.pictures) parts.image.src = `/v1/verdicts/${record.id}/thumbnail`;
  else parts.image.removeAttribute("src");
  setGlyph(parts.glyph.firstChild, record.verdict);
  parts.verdict.textContent = record.verdict;
  parts.line.textContent = [several && record.product, REASONS[record.reason] ?? part(record)].filter(Boolean).join(" · ");
  parts.line.title = `${record.product} · ${part(record)}`;
  parts.fill.style.transform = `scaleX(${record.score})`;
  parts.score.textContent = number(record.score);
  parts.time.textContent = `${milliseconds(record.timings_ms.total)} · ${clock(record.at)}`;
}
