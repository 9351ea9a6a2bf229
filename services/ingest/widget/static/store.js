/**
 * What outlives a reload. In this browser's storage; where a frame has none (private windows, blocked third parties) the
 * website around it keeps it (loader.js); where that keeps nothing either, the page's own memory has to do.
 */

const HOST_LIMIT_MS = 1_500;

export class Store {
  /** Open the store of one account. */
  static async open(name) {
    const store = new Store(`threadline.chat.${name}`);
    if (!store.isKeptHere()) store.kept = await askHost();
    return store;
  }

  constructor(name) {
    this.name = name;
    this.kept = null;
  }

  isKeptHere() {
    try {
      localStorage.setItem(`${this.name}.try`, "1");
      localStorage.removeItem(`${this.name}.try`);
      return true;
    } catch {
      return false;
    }
  }

  get(key) {
    if (this.kept) return this.kept[key] ?? null;
    try {
      return JSON.parse(localStorage.getItem(`${this.name}.${key}`));
    } catch {
      return null;
    }
  }

  /** Keep `value`, or with undefined forget what was kept. */
  set(key, value) {
    if (this.kept) {
      if (value === undefined) delete this.kept[key];
      else this.kept[key] = value;
      // Only websites that the account names can be around this page: frame-ancestors of its policy.
      if (window.parent !== window) window.parent.postMessage({ threadline: "chat", keep: key, value }, "*");
      return;
    }
    try {
      if (value === undefined) localStorage.removeItem(`${this.name}.${key}`);
      else localStorage.setItem(`${this.name}.${key}`, JSON.stringify(value));
    } catch {
      // The storage is full: what is in memory is sent all the same.
    }
  }

  /** All values whose key begins with `prefix`, of this page and of any other of the same website. */
  all(prefix) {
    const own = `${this.name}.`;
    const keys = this.kept
      ? Object.keys(this.kept)
      : Object.keys(localStorage).filter((key) => key.startsWith(own)).map((key) => key.slice(own.length));
    return keys.filter((key) => key.startsWith(prefix)).map((key) => this.get(key)).filter(Boolean);
  }
}

/** What the website around this page has kept; nothing where there is none, or it does not answer. */
function askHost() {
  if (window.parent === window) return {};
  return new Promise((resolve) => {
    const done = (kept) => {
      removeEventListener("message", heard);
      resolve(kept);
    };
    const heard = (event) => {
      const kept = event.source === window.parent && event.data?.threadline === "chat" && event.data.kept;
      if (kept) done(kept);
    };
    addEventListener("message", heard);
    setTimeout(done, HOST_LIMIT_MS, {});
    window.parent.postMessage({ threadline: "chat", wants: "kept" }, "*");
  });
}

/** Random bytes as base64url. */
export function randomText(bytes) {
  const raw = String.fromCharCode(...crypto.getRandomValues(new Uint8Array(bytes)));
  return btoa(raw).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}

/** A UUID; the browser's own function is missing on pages without TLS. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}
