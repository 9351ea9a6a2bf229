/** The public API, called with the session cookie of whoever signed in. */

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** GET a path and return its JSON. Throws Problem. */
export async function get(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw await problem(answer);
  return answer.json();
}

/** Exchange a key for a session cookie. Throws Problem. */
export async function signIn(key) {
  const answer = await fetch("/v1/session", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ key }),
  });
  if (!answer.ok) throw await problem(answer);
}

/** End the session where the service can; the page forgets it in any case. */
export async function signOut() {
  await fetch("/v1/session", { method: "DELETE" }).catch(() => null);
}

async function problem(answer) {
  const body = await answer.json().catch(() => ({}));
  return new Problem(answer.status, body.detail || body.title || `The service answered ${answer.status}.`);
}
