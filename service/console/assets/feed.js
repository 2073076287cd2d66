// The connection: server-sent events, error messages, and reconnection.

const EVENTS = "/v1/verdicts/events";
const PLACES = 4; // streams of one browser: HTTP/1.1 leaves its pages two of six connections for pictures
const SILENCE = 7000; // ms; the service sends something every 2 s
const GRACE = 2500; // ms; an interruption shorter than this is not shown
const AGAIN = 1000; // ms until a page that was refused tries again
const UNANSWERED = "The service does not answer";

/** Sends a request to the service; 401 calls `denied`. Throws Errors with a one-line message for people. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Error(UNANSWERED);
  }
  if (answer.ok) return answer;
  if (answer.status === 401) ask.denied?.();
  const problem = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail ?? `The service answered ${answer.status}`), { status: answer.status });
}

/** A function that gives a place back; null if other pages of this browser have them all. */
async function place() {
  if (!navigator.locks) return () => {}; // an address without TLS: nothing counts its pages
  for (let number = 0; number < PLACES; number++) {
    const leave = await new Promise((taken) => {
      const hold = (lock) => (lock ? new Promise((leave) => taken(leave)) : taken(null));
      navigator.locks.request(`live-${number}`, { ifAvailable: true }, hold);
    });
    if (leave) return leave;
  }
  return null;
}

export class Feed {
  /** `on` has state(state), verdicts(message) and link("live" | "connecting" | "paused" | "gone"). */
  constructor(on) {
    this.on = on;
    this.last = "";
    this.heard = 0;
    this.opened = 0;
    this.source = null;
    this.wanted = false;
    this.turn = 0;
    this.leave = null;
    this.linked = "connecting";
    this.why = ""; // it is not live, for people
    this.refusal = UNANSWERED;
    document.addEventListener("visibilitychange", () => this.wanted && this.#connect());
    setInterval(() => this.#look(), 500);
  }

  open() {
    this.wanted = true;
    return this.#connect();
  }

  close() {
    this.wanted = false;
    this.#pause();
  }

  /** A page that nobody sees is paused, as one for which there is no place. */
  async #connect() {
    this.source?.close();
    this.source = null;
    this.opened = performance.now();
    if (document.hidden) return this.#pause();
    if (!this.leave) {
      const turn = ++this.turn;
      const leave = await place();
      if (turn !== this.turn) return leave?.();
      if (!leave) return this.#pause(`${PLACES} other windows of this browser are live`);
      this.leave = leave;
    }
    if (this.linked === "paused") this.#link("connecting");
    const source = new EventSource(this.last ? `${EVENTS}?after=${encodeURIComponent(this.last)}` : EVENTS);
    source.addEventListener("state", (event) => this.#heard(() => this.on.state(JSON.parse(event.data))));
    source.addEventListener("verdicts", (event) => {
      this.last = event.lastEventId;
      this.#heard(() => this.on.verdicts(JSON.parse(event.data)));
    });
    source.addEventListener("error", () => {
      this.lost ??= performance.now();
      if (source.readyState === EventSource.CLOSED) this.#refused();
      else this.refusal = UNANSWERED;
    });
    this.source = source;
    return null;
  }

  #pause(why = "") {
    this.turn++;
    this.source?.close();
    this.source = null;
    this.leave?.();
    this.leave = this.lost = null;
    this.#link("paused", why);
  }

  #heard(tell) {
    this.heard = performance.now();
    this.lost = null;
    this.refusal = UNANSWERED;
    this.#link("live");
    tell();
  }

  #look() {
    const now = performance.now();
    const quiet = now - Math.max(this.heard, this.opened);
    if (this.source && quiet > SILENCE) this.lost ??= now - quiet;
    if (this.lost && now - this.lost > GRACE) this.#link("gone", this.refusal);
    if (this.wanted && (this.source ? quiet > SILENCE : now - this.opened > AGAIN)) this.#connect();
  }

  /** Learns why: an EventSource does not tell. */
  async #refused() {
    this.source = null;
    const trying = new AbortController();
    try {
      await ask(EVENTS, { signal: trying.signal });
    } catch (error) {
      this.refusal = error.message;
    }
    trying.abort();
  }

  #link(linked, why = "") {
    if (linked === this.linked && why === this.why) return;
    this.linked = linked;
    this.why = why;
    this.on.link(linked);
  }
}
