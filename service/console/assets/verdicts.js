// The rules of verdicts, without DOM: also for another threshold.

export const THRESHOLD = 0.5;
export const NAMES = ["OK", "REVIEW", "NG"];
export const REASONS = {
  guard_band: "too close to the threshold to be certain",
  small_region: "over the threshold, but no region is large enough",
  unlike_training: "the picture is unlike those it was calibrated on",
};

/** Unix time by the service's clock, in seconds, from its last message on: the page's own clock may differ. */
export const service = {
  ahead: performance.timeOrigin / 1000,
  now: () => service.ahead + performance.now() / 1000,
  set: (now) => (service.ahead = now - performance.now() / 1000),
};

/** The verdict on `record` with another `threshold`, by the rule of export/bundle/reading.py. */
export function judged(record, threshold) {
  if (record.reason === "unlike_training") return "REVIEW";
  if (record.score < threshold - record.guard_band) return "OK";
  if (record.score > threshold + record.guard_band) return record.small ? "REVIEW" : "NG";
  return "REVIEW";
}

/** Counts of changed verdicts: {"OK → NG": 3}. */
export function changes(records, threshold) {
  const counts = new Map();
  for (const record of records) {
    const then = judged(record, threshold);
    if (then === record.verdict) continue;
    const way = `${record.verdict} → ${then}`;
    counts.set(way, (counts.get(way) ?? 0) + 1);
  }
  return new Map([...counts].sort((a, b) => b[1] - a[1]));
}

/** The raw value that has this score: the inverse of export/bundle/scale.py. */
export function rawAt(score, median, threshold) {
  const z = score <= 0.5 ? 2 * score : 1 / (2 * (1 - score));
  return median + z * (threshold - median);
}

export const number = (value, digits = 3) => value.toFixed(digits);
export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB");
export const milliseconds = (value) => `${value < 100 ? value.toFixed(1) : Math.round(value)} ms`;
export const part = (record) => record.frame_id || record.request_id;

/** CSV for a spreadsheet. Text from callers is escaped so that it can't become a formula. */
export function csv(records) {
  const cell = (value) => {
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return `"${text.replaceAll('"', '""')}"`;
  };
  const names = ["time", "product", "version", "frame_id", "request_id", "verdict", "reason", "score", "raw_score", "total_ms"];
  const rows = records.map((r) => [new Date(r.at * 1000).toISOString(), r.product, r.version, r.frame_id, r.request_id, r.verdict, r.reason, r.score, r.raw_score, r.timings_ms.total]);
  return [names, ...rows].map((row) => row.map(cell).join(",")).join("\r\n");
}
