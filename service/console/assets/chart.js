// Scores over time and as a histogram, with a common axis and threshold.

import { colour, sized } from "/console/dom.js";
import { THRESHOLD, NAMES, number } from "/console/verdicts.js";

const POINTS = 300;
const BINS = 40;
const LEFT = 34, SHARE = 0.3, GAP = 14, PAD = 8;

export class Chart {
  constructor(canvas, onThreshold, onChoose) {
    this.canvas = canvas;
    this.records = [];
    this.threshold = THRESHOLD;
    this.retheme();
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.#listen(onThreshold, onChoose);
  }

  retheme() {
    this.colours = Object.fromEntries(["OK", "NG", "REVIEW", "ink", "dim", "faint", "line", "try", "chart"].map((name) => [name, colour(name)]));
    this.draw();
  }

  show(records, threshold, chosen) {
    Object.assign(this, { records, threshold, chosen });
    this.draw();
  }

  draw() {
    if (!this.records || !this.colours) return;
    const { context, width, height } = sized(this.canvas);
    this.area = { top: PAD, bottom: height - PAD, right: Math.round((width - LEFT) * (1 - SHARE)) + LEFT - GAP, end: width - 2 };
    context.font = "12px B612, sans-serif";
    context.textBaseline = "middle";
    this.#axis(context);
    this.#points(context);
    this.#histogram(context);
    this.#captions(context);
    this.#line(context, THRESHOLD, this.colours.ink, []);
    if (this.threshold !== THRESHOLD) this.#line(context, this.threshold, this.colours.try, [6, 4]);
  }

  #y(score) {
    return this.area.bottom - score * (this.area.bottom - this.area.top);
  }

  #axis(context) {
    context.fillStyle = this.colours.faint;
    context.strokeStyle = this.colours.line;
    context.lineWidth = 1;
    for (const score of [0, 0.25, 0.75, 1]) {
      const y = Math.round(this.#y(score)) + 0.5;
      context.beginPath();
      context.moveTo(LEFT, y);
      context.lineTo(this.area.end, y);
      context.stroke();
      if (Math.abs(score - this.threshold) < 0.1) continue; // its label would overlap that of the tried threshold
      context.fillText(String(score), 0, Math.min(this.area.bottom - 4, Math.max(this.area.top + 4, y)));
    }
  }

  #captions(context) {
    context.fillStyle = this.colours.faint;
    context.textAlign = "right";
    if (this.area.end > 560) {
      context.fillText("newest", this.area.right - 4, this.area.top + 6);
      context.fillText("how many, root scale", this.area.end - 2, this.area.top + 6);
    }
    context.textAlign = "left";
  }

  #line(context, score, style, dash) {
    const y = this.#y(score);
    context.strokeStyle = context.fillStyle = style;
    context.lineWidth = 2;
    context.setLineDash(dash);
    context.beginPath();
    context.moveTo(LEFT, y);
    context.lineTo(this.area.end, y);
    context.stroke();
    context.setLineDash([]);
    if (score === THRESHOLD && this.threshold !== THRESHOLD && Math.abs(this.threshold - THRESHOLD) < 0.1) return;
    context.fillText(number(score, 2), 0, y);
  }

  /** Coordinates of the points, oldest on the left. */
  #placed() {
    const records = this.records.slice(0, POINTS);
    const step = (this.area.right - LEFT - 8) / Math.max(60, records.length - 1);
    return records.map((record, i) => ({ record, x: this.area.right - 6 - i * step, y: this.#y(record.score) }));
  }

  #points(context) {
    const size = this.records.length > 150 ? 2.5 : 3.5;
    for (const { record, x, y } of this.#placed().reverse()) {
      context.fillStyle = this.colours[record.verdict];
      context.beginPath();
      shapes[record.verdict](context, x, y, record.verdict === "OK" ? size : size + 1.5);
      context.fill();
      if (record.id !== this.chosen?.id) continue;
      context.strokeStyle = this.colours.ink;
      context.lineWidth = 2;
      context.strokeRect(x - 8, y - 8, 16, 16);
    }
  }

  #histogram(context) {
    const left = this.area.right + GAP;
    const bins = Array.from({ length: BINS }, () => ({ OK: 0, REVIEW: 0, NG: 0, sum: 0 }));
    for (const record of this.records) {
      const bin = bins[Math.min(BINS - 1, Math.floor(record.score * BINS))];
      bin[record.verdict]++;
      bin.sum++;
    }
    // Bar lengths grow with the square root of the count, so that one part in a thousand is visible.
    const most = Math.max(1, ...bins.map((bin) => bin.sum));
    const high = (this.area.bottom - this.area.top) / BINS;
    bins.forEach((bin, i) => {
      let x = left;
      const scale = ((this.area.end - left) * Math.sqrt(bin.sum / most)) / bin.sum;
      for (const name of NAMES) {
        if (!bin[name]) continue;
        const long = Math.max(2, bin[name] * scale);
        context.fillStyle = this.colours[name];
        context.fillRect(x, this.area.bottom - (i + 1) * high + 0.5, long, Math.max(1, high - 1));
        x += long;
      }
    });
  }

  #listen(onThreshold, onChoose) {
    let dragging = false;
    const scoreAt = (event) => Math.min(0.95, Math.max(0.05, Math.round(((this.area.bottom - event.offsetY) / (this.area.bottom - this.area.top)) * 200) / 200));
    this.canvas.addEventListener("pointerdown", (event) => {
      const near = Math.abs(event.offsetY - this.#y(this.threshold)) < 12;
      const point = this.#placed().find(({ x, y }) => Math.hypot(x - event.offsetX, y - event.offsetY) < 7);
      if (point && !(near && this.threshold !== THRESHOLD)) return onChoose(point.record);
      if (!near) return;
      dragging = true;
      this.canvas.setPointerCapture(event.pointerId);
    });
    this.canvas.addEventListener("pointermove", (event) => dragging && onThreshold(scoreAt(event)));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => (dragging = false));
  }
}

const shapes = {
  OK: (context, x, y, size) => context.arc(x, y, size, 0, 7),
  NG: (context, x, y, size) => polygon(context, [x, y - size * 1.2, x + size * 1.2, y, x, y + size * 1.2, x - size * 1.2, y]),
  REVIEW: (context, x, y, size) => polygon(context, [x, y - size * 1.2, x + size * 1.2, y + size, x - size * 1.2, y + size]),
};

function polygon(context, [x, y, ...rest]) {
  context.moveTo(x, y);
  for (let i = 0; i < rest.length; i += 2) context.lineTo(rest[i], rest[i + 1]);
  context.closePath();
}
