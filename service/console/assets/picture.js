// The frame with heatmap, outline of the area over the pixel threshold, and regions.

import { $, sized } from "/console/dom.js";

const PATIENCE = 300; // ms until an earlier part's picture goes: most come sooner, and a blank would flicker
const OVER = 128; // of 255: from here on a pixel is over its threshold
const STOPS = [ // grey, red, green, blue, opacity: lighter is hotter, also for colour-blind people
  [0, 60, 20, 110, 0], [50, 72, 22, 120, 0], [90, 120, 28, 109, 0.45], [128, 213, 68, 60, 0.75],
  [175, 250, 144, 30, 0.9], [215, 249, 201, 50, 0.95], [255, 252, 255, 164, 1],
];
const HEAT = heatTable();

export class Picture {
  constructor() {
    this.regions = [];
    this.map = null;
    this.size = { width: 4, height: 3 };
    new ResizeObserver(() => this.draw()).observe($("picture"));
    for (const id of ["show-outline", "show-regions"]) $(id).addEventListener("change", () => this.draw());
    const fade = () => ($("heat").style.opacity = $("opacity").value / 100);
    $("opacity").addEventListener("input", fade);
    fade();
  }

  /** Shows a record when frame and map are loaded; false if a later call has replaced it. */
  async show(record, urls) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const slow = setTimeout(() => turn === this.turn && this.#empty("The picture is loading…"), PATIENCE);
    let frame, map;
    try {
      [frame, map] = await Promise.all([loaded(urls.frame), loaded(urls.heatmap)]);
    } catch {
      if (turn === this.turn) this.clear("The picture is not kept any more");
      return false;
    } finally {
      clearTimeout(slow);
    }
    if (turn !== this.turn) return false;
    $("frame").src = frame.src;
    $("frame").alt = `Part of ${record.product}: ${record.verdict}`;
    this.regions = record.regions;
    this.size = record.image;
    this.map = greys(map);
    $("viewer").style.setProperty("--aspect", this.size.width / this.size.height);
    $("no-picture").hidden = true;
    paintHeat($("heat"), this.map);
    this.draw();
    return true;
  }

  clear(text) {
    this.turn = (this.turn ?? 0) + 1;
    this.#empty(text);
  }

  #empty(text) {
    $("frame").removeAttribute("src");
    $("frame").alt = "";
    this.map = null;
    this.regions = [];
    $("heat").getContext("2d").clearRect(0, 0, $("heat").width, $("heat").height);
    $("no-picture").textContent = text;
    $("no-picture").hidden = false;
    this.draw();
  }

  draw(current = -1) {
    const { context, width, height } = sized($("marks"));
    if (!this.map) return;
    if ($("show-outline").checked) strokeTwice(context, outline(this.map, width, height), 1.5);
    if ($("show-regions").checked) {
      this.regions.slice(0, 9).forEach((region, i) => drawRegion(context, region, i, width / this.size.width, height / this.size.height, i === current));
    }
  }
}

async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

function greys(image) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  return { width, height, values: Uint8Array.from({ length: width * height }, (_, i) => pixels[4 * i]) };
}

function paintHeat(canvas, map) {
  [canvas.width, canvas.height] = [map.width, map.height];
  const image = new ImageData(map.width, map.height);
  const words = new Uint32Array(image.data.buffer);
  map.values.forEach((value, i) => (words[i] = HEAT[value]));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The edges between cells over and under the threshold. */
function outline({ width: columns, height: rows, values }, width, height) {
  const path = new Path2D();
  const [dx, dy] = [width / columns, height / rows];
  const over = (x, y) => x >= 0 && y >= 0 && x < columns && y < rows && values[y * columns + x] >= OVER;
  const edge = (x0, y0, x1, y1) => {
    path.moveTo(x0 * dx, y0 * dy);
    path.lineTo(x1 * dx, y1 * dy);
  };
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (!over(x, y)) continue;
      if (!over(x - 1, y)) edge(x, y, x, y + 1);
      if (!over(x + 1, y)) edge(x + 1, y, x + 1, y + 1);
      if (!over(x, y - 1)) edge(x, y, x + 1, y);
      if (!over(x, y + 1)) edge(x, y + 1, x + 1, y + 1);
    }
  }
  return path;
}

function strokeTwice(context, path, width) {
  context.lineCap = "square";
  for (const [style, extra] of [["rgb(0 0 0 / 0.7)", 2], ["#fff", 0]]) {
    context.strokeStyle = style;
    context.lineWidth = width + extra;
    context.stroke(path);
  }
}

/** Corners and a number: a full box would hide the defect. */
function drawRegion(context, region, index, sx, sy, current) {
  const [x0, y0] = [region.x * sx, region.y * sy];
  const [x1, y1] = [x0 + region.width * sx, y0 + region.height * sy];
  const arm = Math.max(4, Math.min(14, (x1 - x0) / 3, (y1 - y0) / 3));
  const path = new Path2D();
  for (const [x, y, h, v] of [[x0, y0, 1, 1], [x1, y0, -1, 1], [x1, y1, -1, -1], [x0, y1, 1, -1]]) {
    path.moveTo(x + h * arm, y);
    path.lineTo(x, y);
    path.lineTo(x, y + v * arm);
  }
  strokeTwice(context, path, current ? 4 : 2);
  const label = String(index + 1);
  context.font = "700 12px B612, sans-serif";
  const wide = context.measureText(label).width + 8;
  const [x, y] = [Math.max(0, x0), Math.max(0, y0 - 17)];
  context.fillStyle = "#fff";
  context.fillRect(x, y, wide, 16);
  context.fillStyle = "#000";
  context.fillText(label, x + 4, y + 12.5);
}

function heatTable() {
  const table = new Uint32Array(256);
  for (let value = 0; value < 256; value++) {
    const i = Math.max(1, STOPS.findIndex((stop) => stop[0] >= value));
    const [low, high] = [STOPS[i - 1], STOPS[i]];
    const share = (value - low[0]) / (high[0] - low[0]);
    const [r, g, b, a] = [1, 2, 3, 4].map((k) => low[k] + share * (high[k] - low[k]));
    table[value] = (Math.round(255 * a) << 24) | (Math.round(b) << 16) | (Math.round(g) << 8) | Math.round(r);
  }
  return table;
}
