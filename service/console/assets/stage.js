// The verdict in view: the lamp at the top, its picture and its numbers.

import { $, element, setGlyph } from "/console/dom.js";
import { Picture } from "/console/picture.js";
import { THRESHOLD, REASONS, clock, milliseconds, number, part, service } from "/console/verdicts.js";

const IDLE = 30; // s without a verdict after which the lamp goes dim
const PAUSE = 500; // minimum ms between two verdicts on the lamp, so that people can read them
const SPEAK = 4000; // minimum ms between two announcements

/** Sets text only if it differs, which avoids layout and screen reader announcements. */
const say = (id, text) => $(id).textContent === text || ($(id).textContent = text);

export class Stage {
  current = null; // the newest record
  held = null; // the record selected by the user
  #picture = new Picture();
  #changed = -Infinity; // by performance.now(), which is never set back
  #spoken = -Infinity;
  #stale = false;

  constructor(back) {
    this.back = back;
  }

  /** Shows a new verdict on the lamp; false if the last one is too recent. */
  offer(record, now = false) {
    if (this.held || (!now && performance.now() - this.#changed < PAUSE)) return false;
    this.#changed = performance.now();
    this.current = record;
    this.#show(record);
    if (record) this.#speak(record);
    return true;
  }

  /** Holds `record` until called with null; `urls` of its pictures, if they are known already. */
  hold(record, urls) {
    this.held = record;
    if (record) this.#show(record, urls);
    else if (this.current) this.#show(this.current);
    else this.#show(null);
  }

  /** Clears everything, after a restart of the service. */
  clear() {
    this.current = this.held = null;
    this.#show(null);
  }

  stale(is) {
    this.#stale = is;
    this.#lamp(this.held ?? this.current);
  }

  tryThreshold(threshold) {
    $("gauge-try").hidden = threshold === THRESHOLD;
    $("gauge-try").style.left = `${100 * threshold}%`;
  }

  /** Called periodically: updates the age of the verdict shown. */
  tick() {
    const record = this.held ?? this.current;
    if (record) this.#line(record);
  }

  #show(record, urls) {
    this.#lamp(record);
    this.#numbers(record);
    if (!record) return this.#picture.clear("Drop a picture anywhere to inspect it");
    if (!urls && !record.pictures) return this.#picture.clear("The picture is not kept any more");
    return this.#picture.show(record, urls ?? { frame: `/v1/verdicts/${record.id}/frame`, heatmap: `/v1/verdicts/${record.id}/heatmap` });
  }

  #lamp(record) {
    const plate = $("plate");
    const old = this.#stale && !this.held;
    const verdict = record && !old ? record.verdict : "NONE";
    plate.dataset.verdict = verdict;
    plate.dataset.stale = old;
    plate.dataset.held = Boolean(this.held);
    setGlyph($("plate-glyph"), verdict);
    $("plate-text").textContent = old ? "No signal" : record ? record.verdict : "Waiting";
    $("plate-value").textContent = record && !old ? number(record.score) : "–";
    $("plate-threshold").textContent = `threshold ${number(THRESHOLD)}`;
    $("back").hidden = !this.held;
    document.body.classList.toggle("is-stale", this.#stale);
    if (record) return this.#line(record);
    say("plate-mode", old ? "Not live" : "Live");
    return say("plate-line", "No verdict to show yet.");
  }

  #line(record) {
    const age = Math.max(0, Math.round(service.now() - record.at));
    const when = age < 5 ? "" : age < 120 ? `${age} s ago` : `at ${clock(record.at)}`;
    const old = this.#stale && !this.held;
    const idle = !old && !this.held && age > IDLE;
    $("plate").dataset.idle = idle;
    say("plate-mode", old ? "Not live" : this.held ? `Held, ${clock(record.at)}` : idle ? `Nothing new for ${age < 120 ? `${age} s` : `${Math.floor(age / 60)} min`}` : "Live");
    say("plate-line", [old && `last seen: ${record.verdict}`, record.product, part(record), milliseconds(record.timings_ms.total), when, REASONS[record.reason]].filter(Boolean).join("  ·  "));
  }

  #numbers(record) {
    const mark = $("gauge-mark");
    mark.hidden = !record;
    if (!record) {
      $("numbers").replaceChildren();
      $("regions").replaceChildren();
      return;
    }
    mark.style.left = `${100 * record.score}%`;
    mark.style.color = `var(--${record.verdict})`;
    setGlyph($("gauge-glyph"), record.verdict);
    $("gauge-band").style.left = `${100 * (THRESHOLD - record.guard_band)}%`;
    $("gauge-band").style.width = `${200 * record.guard_band}%`;
    const { timings_ms: t } = record;
    const rows = {
      "Raw score": `${number(record.raw_score, 4)}, threshold ${number(record.raw_threshold, 4)}`,
      Part: part(record),
      Product: `${record.product} v${record.version}, ${record.engine}`,
      Latency: `${milliseconds(t.total)}: engine ${number(t.infer, 1)}, decode ${number(t.decode, 1)}, wait ${number(t.queue, 1)}`,
      Picture: `${record.image.width} × ${record.image.height}`,
    };
    $("numbers").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [element("dt", {}, name), element("dd", { title: value }, value)]));
    $("regions").replaceChildren(...record.regions.map((region, i) => this.#region(region, i)));
    if (!record.regions.length) $("regions").replaceChildren(element("tr", {}, element("td", { colSpan: 5 }, "none over the pixel threshold")));
  }

  #region(region, index) {
    const cells = [index + 1, `${region.x}, ${region.y}`, `${region.width} × ${region.height}`, region.area, number(region.peak)];
    const row = element("tr", {}, ...cells.map((cell) => element("td", {}, String(cell))));
    row.addEventListener("pointerenter", () => this.#picture.draw(index));
    row.addEventListener("pointerleave", () => this.#picture.draw());
    return row;
  }

  /** Announces verdicts that need attention to screen readers, at a limited rate. */
  #speak(record) {
    if (record.verdict === "OK" || performance.now() - this.#spoken < SPEAK) return;
    this.#spoken = performance.now();
    $("spoken").textContent = `${record.verdict}, ${record.product}, score ${number(record.score, 2)}`;
  }
}
