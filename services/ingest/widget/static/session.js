/** The visitor's session: opened once, renewed while it can be, and calls that are made with it. */

import { randomText } from "./store.js";

const ANSWER_LIMIT_MS = 20_000;

/** An answer that is none: `status` 0 is no answer at all. */
export class Failed extends Error {
  constructor(status, retryAfterMs = 0) {
    super(`status ${status}`);
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }

  /** The same again cannot work. */
  get isFinal() {
    return this.status >= 400 && this.status < 500 && ![401, 408, 425, 429].includes(this.status);
  }
}

async function call(url, options = {}) {
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), ANSWER_LIMIT_MS);
  try {
    const answer = await fetch(url, { ...options, signal: limit.signal, credentials: "omit" });
    if (!answer.ok) throw new Failed(answer.status, 1000 * (Number(answer.headers.get("retry-after")) || 0));
    return await answer.json();
  } catch (error) {
    throw error instanceof Failed ? error : new Failed(0);
  } finally {
    clearTimeout(timer);
  }
}

export class Session {
  /** `user` is {id, hash} where the website vouches for its visitor, else null. */
  constructor(endpoint, user, store) {
    this.endpoint = endpoint;
    this.user = user;
    this.store = store;
    const kept = store.get("session");
    // Somebody else has signed in on the website since: their chat is another.
    this.current = kept && kept.user === (user?.id ?? null) ? kept : null;
    this.busy = null;
  }

  get exists() {
    return this.current !== null;
  }

  /** Open or renew, once for all who ask meanwhile. Throws Failed. */
  renew() {
    this.busy ??= this.#renewed().finally(() => (this.busy = null));
    return this.busy;
  }

  async #renewed() {
    let found = null;
    if (this.current) {
      try {
        found = await call(`${this.endpoint}?${new URLSearchParams({ token: this.current.token })}`);
      } catch (error) {
        if (!(error.status === 401 || error.status === 403)) throw error;
      }
    }
    found ??= await call(`${this.endpoint}?${this.#opening()}`);
    this.current = { ...found, user: this.user?.id ?? null };
    this.store.set("session", this.current);
  }

  #opening() {
    const query = new URLSearchParams({ nonce: randomText(24) });
    if (this.user) {
      query.set("user", this.user.id);
      query.set("user_hash", this.user.hash);
    }
    return query;
  }

  /** Post events. Throws Failed. */
  async post(events) {
    if (!this.current) await this.renew();
    try {
      return await this.#posted(events);
    } catch (error) {
      if (error.status !== 401) throw error;
      await this.renew();
      return this.#posted(events);
    }
  }

  #posted(events) {
    return call(this.endpoint, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${this.current.token}` },
      body: JSON.stringify({ events }),
    });
  }
}
