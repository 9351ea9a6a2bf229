/**
 * Messages that are not known to be taken. Each keeps its id until the server has said 202, over failures and reloads:
 * one that was taken although the answer got lost is recognised by its id and counts once. Each is kept by itself, for a
 * visitor may have the website open in several tabs: what one of them leaves behind, another sends.
 */

import { uuid } from "./store.js";

const AT_ONCE = 20;
const LONGEST_WAIT_MS = 30_000;
const KEPT = "outbox.";

export class Outbox {
  /** `post` sends events; `changed(message)` is called whenever the state of one changes. */
  constructor(post, store, changed) {
    this.post = post;
    this.store = store;
    this.changed = changed;
    this.waiting = store.all(KEPT).sort((one, other) => one.sequence - other.sequence);
    this.running = false;
    this.tries = 0;
    this.wake = () => {};
  }

  add(text) {
    const sequence = (this.store.get("sequence") ?? 0) + 1;
    this.store.set("sequence", sequence);
    const message = { id: uuid(), text, sequence, sent_at: new Date().toISOString(), state: "pending" };
    this.waiting.push(message);
    this.#keep(message);
    this.changed(message);
    this.flush();
  }

  /** Try a message again that the server refused. */
  again(id) {
    const message = this.waiting.find((one) => one.id === id);
    if (!message) return;
    message.state = "pending";
    this.changed(message);
    this.flush();
  }

  /** A message was seen on the timeline: whatever became of the answer, it was taken. */
  taken(id) {
    this.waiting = this.waiting.filter((one) => one.id !== id);
    this.store.set(KEPT + id, undefined);
  }

  /** Send what waits, in order, now; if that is going on already, without further waiting. */
  async flush() {
    this.wake();
    if (this.running) return;
    this.running = true;
    try {
      let batch;
      while ((batch = this.waiting.filter((one) => one.state === "pending").slice(0, AT_ONCE)).length) {
        await this.#send(batch);
      }
    } finally {
      this.running = false;
    }
  }

  async #send(batch) {
    try {
      await this.post(batch.map(({ id, text, sequence, sent_at }) => (
        { type: "message", client_message_id: id, text, sequence, sent_at }
      )));
      this.tries = 0;
      this.#settle(batch, "sent");
    } catch (error) {
      if (error.isFinal && batch.length > 1) return this.#oneByOne(batch);
      if (error.isFinal) return this.#settle(batch, "failed");
      await this.#pause(error.retryAfterMs ?? 0);
    }
  }

  /** One of several cannot be taken: find out which. */
  async #oneByOne(batch) {
    for (const message of batch) await this.#send([message]);
  }

  #settle(batch, state) {
    for (const message of batch) {
      message.state = state;
      if (state === "sent") this.taken(message.id);
      else this.#keep(message);
      this.changed(message);
    }
  }

  async #pause(leastMs) {
    const backoff = Math.min(LONGEST_WAIT_MS, 500 * 2 ** this.tries++) * (0.5 + Math.random() / 2);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, Math.max(leastMs, backoff));
      this.wake = () => {
        if (leastMs) return;
        clearTimeout(timer);
        resolve();
      };
    });
    this.wake = () => {};
  }

  #keep(message) {
    this.store.set(KEPT + message.id, message);
  }
}
