/** Who looks at a page: signing in by link or by key, signing out, light or dark. */

import { Problem, signIn, signOut } from "./api.js";
import { $ } from "./dom.js";

let asking = null;

/** Set the page's buttons up. Signing out comes back to `home`. */
export function prepare(home) {
  theme();
  $("leave").addEventListener("click", async () => { await signOut(); location.assign(home); });
}

/** A link may carry a key after the #, which no server ever sees; it becomes a session and leaves the address. */
export async function useKeyFromAddress() {
  const rest = new URLSearchParams(location.hash.slice(1));
  const given = rest.get("key");
  if (!given) return;
  rest.delete("key");
  history.replaceState(null, "", `${location.pathname}${location.search}${rest.size ? `#${rest}` : ""}`);
  try {
    await signIn(given);
    asking?.done();
  } catch (error) {
    $("key-fault").textContent = error.message;
  }
}

/** Do `work`; where there is no session, or one that may not, ask for a key and do it then. */
export async function signedIn(work) {
  for (;;) {
    try {
      const done = await work();
      $("leave").hidden = false;
      return done;
    } catch (error) {
      if (!(error instanceof Problem) || (error.status !== 401 && error.status !== 403)) throw error;
      if (error.status === 403) $("key-fault").textContent = error.message;
      await askKey();
    }
  }
}

/** Ask for a key until one is good; any number may wait for it. */
export function askKey() {
  asking ??= newQuestion();
  return asking.answered;
}

function newQuestion() {
  const dialog = $("sign-in");
  const question = {};
  question.answered = new Promise((resolve) => {
    question.done = () => {
      $("key").value = $("key-fault").textContent = "";
      dialog.close();
      asking = null;
      resolve();
    };
  });
  $("leave").hidden = true;
  if (!dialog.open) dialog.showModal();
  dialog.oncancel = (event) => event.preventDefault();
  $("key-form").onsubmit = async (event) => {
    event.preventDefault();
    try {
      await signIn($("key").value.trim());
      question.done();
    } catch (error) {
      $("key-fault").textContent = error.message;
    }
  };
  return question;
}

/** A word kept in this browser; null where storage is forbidden. */
export function kept(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}

/** Keep a word in this browser, where that is allowed. */
export function keep(name, word) {
  try { localStorage.setItem(name, word); } catch { /* the choice holds until the page is left */ }
}

function theme() {
  const root = document.documentElement;
  if (kept("theme")) root.dataset.theme = kept("theme");
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    keep("theme", root.dataset.theme);
  });
}
