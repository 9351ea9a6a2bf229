/**
 * `/v1/stream` for as long as somebody looks: what is new, with nothing left out and nothing twice.
 *
 * The position of the last event is kept, so a connection that broke, a server that restarted or a tab that was hidden
 * goes on from there. Where there is no position yet, or the server says `reset`, the page reads everything again.
 * Read by fetch and not by an EventSource, which forgets its position when a server answers an error.
 */

import { problemOf } from "/pages/api.js";

const SILENT_MS = 40_000; // a heartbeat comes every 15 s
const WAIT_FIRST_MS = 500;
const WAIT_LONGEST_MS = 15_000;

export class Stream {
  /** `on` has: entry(entry), removed(id), reset(), state("live" | "waiting" | "away"), failed(problem). */
  constructor(query, on) {
    this.path = `/v1/stream${query}`;
    this.on = on;
    this.position = null;
    this.round = null;
    this.again = this.again.bind(this);
    for (const [target, name] of [[document, "visibilitychange"], [window, "online"], [window, "offline"]]) target.addEventListener(name, this.again);
    this.again();
  }

  /** Connect anew, or let go: a browser has few connections, so a hidden tab holds none. */
  again() {
    this.round?.abort();
    this.round = new AbortController();
    if (document.hidden) return;
    if (navigator.onLine === false) this.on.state("away"); else this.run(this.round);
  }

  /** Forget the position: the next connection says `reset`. */
  startOver() {
    this.position = null;
    this.again();
  }

  close() {
    for (const [target, name] of [[document, "visibilitychange"], [window, "online"], [window, "offline"]]) target.removeEventListener(name, this.again);
    this.round?.abort();
  }

  async run(round) {
    let wait = WAIT_FIRST_MS;
    while (!round.signal.aborted) {
      try {
        await this.follow(round, () => { wait = WAIT_FIRST_MS; });
      } catch (error) {
        if (round.signal.aborted) return;
        if (error.status >= 400 && error.status < 500 && error.status !== 429) { this.on.failed(error); return; }
      }
      if (round.signal.aborted) return;
      this.on.state("away");
      await sleep(wait * (0.75 + Math.random() / 2), round.signal);
      wait = Math.min(wait * 2, WAIT_LONGEST_MS);
    }
  }

  /** Read one connection to its end. */
  async follow(round, opened) {
    const connection = new AbortController();
    const giveUp = () => connection.abort();
    round.signal.addEventListener("abort", giveUp);
    let silence = setTimeout(giveUp, SILENT_MS);
    try {
      const headers = { Accept: "text/event-stream", ...(this.position === null ? {} : { "Last-Event-ID": this.position }) };
      const answer = await fetch(this.path, { headers, signal: connection.signal });
      if (!answer.ok) throw await problemOf(answer);
      opened();
      if (this.position === null) this.on.reset();
      this.on.state("live");
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const lines = new Lines();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(silence);
        silence = setTimeout(giveUp, SILENT_MS);
        for (const event of lines.take(value)) this.tell(event);
      }
    } finally {
      clearTimeout(silence);
      round.signal.removeEventListener("abort", giveUp);
    }
  }

  tell(event) {
    if (event.id) this.position = event.id;
    if (event.name === "reset") { this.on.reset(); return; }
    const entry = JSON.parse(event.data);
    if (entry.deleted) this.on.removed(entry.id); else this.on.entry(entry);
  }
}

/** Server-sent events from pieces of text, as they come. */
export class Lines {
  constructor() {
    this.rest = "";
  }

  take(text) {
    const blocks = (this.rest + text).split("\n\n");
    this.rest = blocks.pop();
    return blocks.map(event).filter((one) => one.data);
  }
}

function event(block) {
  const found = { id: "", name: "message", data: "" };
  for (const line of block.split("\n")) {
    const [, field, value] = /^([a-z]+): ?(.*)$/.exec(line) || [];
    if (field === "id") found.id = value;
    else if (field === "event") found.name = value;
    else if (field === "data") found.data += value;
  }
  return found;
}

function sleep(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); });
  });
}
