// The state of the page: the newest records, the selected one, and the filters.

import { THRESHOLD, judged } from "/console/verdicts.js";

const MOST = 2000;
const MINUTE = 60_000;

export class Store {
  records = []; // newest first
  counts = null;
  products = [];
  ready = true;
  reason = "";
  history = "";
  product = ""; // empty: all
  filter = "ALL";
  threshold = THRESHOLD;

  #shown = null;
  #misses = []; // parts not inspected: {at: ms of performance.now(), more: number}
  #counted = 0; // when `counts` came

  /** Adds received records; returns the new ones, newest first. */
  add({ records, counts }) {
    const at = performance.now();
    const more = this.#missedIn(counts) - this.#missedIn(this.counts ?? counts);
    if (more > 0 && at - this.#counted < MINUTE) this.#misses.push({ at, more }); // else it is unknown when
    [this.counts, this.#counted] = [counts, at];
    const newest = this.records[0];
    const fresh = newest ? records.filter((record) => record.order > newest.order) : records;
    if (!fresh.length) return fresh;
    this.records = [...fresh, ...this.records].slice(0, MOST);
    this.#shown = null;
    return fresh;
  }

  /** After a restart the service knows no earlier records. */
  begin(history) {
    if (history === this.history) return false;
    const again = this.history !== "";
    this.history = history;
    this.records = [];
    this.counts = null;
    this.#shown = null;
    return again;
  }

  choose(changes) {
    Object.assign(this, changes);
    this.#shown = null;
  }

  of(product = this.product) {
    return product ? this.records.filter((record) => record.product === product) : this.records;
  }

  matches(record, filter = this.filter) {
    if (this.product && record.product !== this.product) return false;
    if (filter === "ALL") return true;
    if (filter === "CHANGED") return judged(record, this.threshold) !== record.verdict;
    return record.verdict === filter;
  }

  /** The records that pass the filters. */
  shown() {
    return (this.#shown ??= this.records.filter((record) => this.matches(record)));
  }

  newest() {
    return this.product ? this.records.find((record) => record.product === this.product) : this.records[0];
  }

  /** Number of parts not inspected in the last minute. */
  missed() {
    this.#misses = this.#misses.filter(({ at }) => performance.now() - at < MINUTE);
    return this.#misses.reduce((sum, { more }) => sum + more, 0);
  }

  #missedIn(counts) {
    return Object.values(counts).reduce((sum, count) => sum + (count.NOT_INSPECTED ?? 0), 0);
  }

  tally() {
    const sums = { OK: 0, REVIEW: 0, NG: 0, NOT_INSPECTED: 0 };
    for (const [product, counts] of Object.entries(this.counts ?? {})) {
      if (this.product && product !== this.product) continue;
      for (const name of Object.keys(sums)) sums[name] += counts[name] ?? 0;
    }
    return sums;
  }
}
