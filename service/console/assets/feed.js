// The connection: server-sent events, error messages, and reconnection.

const EVENTS = "/v1/verdicts/events";
const SILENCE = 7000; // ms; the service sends something every 2 s
const GRACE = 2500; // ms; an interruption shorter than this is not shown

/** Sends a request to the service; 401 calls `denied`. Throws Errors with a one-line message for people. */
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    throw new Error("The service does not answer.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) ask.denied?.();
  const problem = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(problem.detail ?? `The service answered ${answer.status}.`), { status: answer.status });
}

export class Feed {
  /** `on` has state(state), verdicts(message) and link("live" | "connecting" | "gone"). */
  constructor(on) {
    this.on = on;
    this.last = "";
    this.heard = 0;
    this.source = null;
    this.linked = "connecting";
    setInterval(() => this.#look(), 500);
  }

  open() {
    this.close();
    this.opened = Date.now();
    const source = new EventSource(this.last ? `${EVENTS}?after=${encodeURIComponent(this.last)}` : EVENTS);
    source.addEventListener("state", (event) => this.#heard(() => this.on.state(JSON.parse(event.data))));
    source.addEventListener("verdicts", (event) => {
      this.last = event.lastEventId;
      this.#heard(() => this.on.verdicts(JSON.parse(event.data)));
    });
    source.addEventListener("error", () => {
      this.lost ??= Date.now();
      if (source.readyState === EventSource.CLOSED) this.#why();
    });
    this.source = source;
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  #heard(tell) {
    this.heard = Date.now();
    this.lost = null;
    this.#link("live");
    tell();
  }

  #look() {
    const now = Date.now();
    if (this.linked === "live" && now - this.heard > SILENCE) this.lost ??= this.heard;
    if (this.lost && now - this.lost > GRACE) this.#link("gone");
    if (this.source && this.lost && now - Math.max(this.heard, this.opened) > SILENCE) this.open();
  }

  async #why() {
    this.close();
    try {
      await ask("/v1/products");
    } catch (error) {
      if (error.status === 401) return; // reopened after login
    }
    setTimeout(() => this.source || this.open(), 1000);
  }

  #link(linked) {
    if (linked === this.linked) return;
    this.linked = linked;
    this.on.link(linked);
  }
}
