/** The public API, called with the session cookie of whoever signed in. */

/** What went wrong, in words for people. `status` is 0 where nobody answered. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** GET a path and return its JSON. Throws Problem. */
export const get = (path, signal) => ask(path, { headers: { Accept: "application/json" }, signal });

/** POST a body as JSON and return the answer's. Throws Problem. */
export const post = (path, body) => ask(path, {
  method: "POST", headers: { Accept: "application/json", "Content-Type": "application/json" }, body: JSON.stringify(body),
});

/** Exchange a key for a session cookie. Throws Problem. */
export const signIn = (key) => post("/v1/session", { key });

/** End the session where the service can; the page forgets it in any case. */
export const signOut = () => fetch("/v1/session", { method: "DELETE" }).catch(() => null);

async function ask(path, options) {
  const answer = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "Threadline cannot be reached.");
  });
  if (!answer.ok) throw await problemOf(answer);
  return answer.status === 204 ? null : answer.json();
}

/** What an answer that is no success says. */
export async function problemOf(answer) {
  const body = await answer.json().catch(() => ({}));
  return new Problem(answer.status, body.detail || body.title || `The service answered ${answer.status}.`);
}
