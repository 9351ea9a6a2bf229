/**
 * What is said in the session, as it comes. Every connection goes on after the last position that was reached, so a
 * lost one loses nothing; what comes twice (a whole session read again) has the same id and replaces itself.
 */

const SILENCE_MS = 40_000;
const LONGEST_WAIT_MS = 20_000;
const RENEW_AFTER_MS = 30 * 60_000;

export class Stream {
  /** `listener` has line(line), reset() and state("connecting" | "live"). */
  constructor(session, listener) {
    this.session = session;
    this.listener = listener;
    this.position = null;
    this.source = null;
    this.timer = null;
    this.tries = 0;
    this.renewedAt = null;
  }

  /** Connect, now, in place of any connection there is. */
  async open() {
    this.#leave();
    this.listener.state("connecting");
    const attempt = (this.attempt = {});
    try {
      await this.#fresh();
    } catch {
      if (this.attempt === attempt) this.#later();
      return;
    }
    if (this.attempt !== attempt) return;
    const after = this.position === null ? "" : `&after=${this.position}`;
    const source = (this.source = new EventSource(this.session.current.stream_url + after));
    source.addEventListener("open", () => this.#reached(null));
    source.addEventListener("line", (event) => {
      this.listener.line(JSON.parse(event.data));
      this.#reached(event);
    });
    for (const name of ["position", "heartbeat"]) source.addEventListener(name, (event) => this.#reached(event));
    source.addEventListener("reset", () => {
      this.position = null;
      this.listener.reset();
    });
    source.addEventListener("ended", () => {
      this.renewedAt = null;
      this.open();
    });
    source.addEventListener("error", () => this.#later());
    this.#watch();
  }

  /** Stop until `open` is called. */
  close() {
    this.#leave();
    this.attempt = null;
    this.listener.state("connecting");
  }

  async #fresh() {
    // Tickets are short-lived, and why a connection was refused cannot be read: after a failure it is renewed too.
    const old = this.renewedAt === null || performance.now() - this.renewedAt > RENEW_AFTER_MS;
    if (!old && this.tries === 0) return;
    await this.session.renew();
    this.renewedAt = performance.now();
  }

  #reached(event) {
    if (event?.lastEventId) this.position = event.lastEventId;
    if (event) this.tries = 0;
    this.listener.state("live");
    this.#watch();
  }

  #watch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), SILENCE_MS);
  }

  #later() {
    this.#leave();
    this.listener.state("connecting");
    const wait = Math.min(LONGEST_WAIT_MS, 500 * 2 ** this.tries++) * (0.5 + Math.random() / 2);
    this.timer = setTimeout(() => this.open(), wait);
  }

  #leave() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  }
}
