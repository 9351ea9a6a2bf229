/** When to work on what comes often. */

/** Call `work` once nothing has come for `wait` ms: while somebody types. */
export function debounce(work, wait) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), wait); };
}

/** Call `work` at most every `wait` ms, and never not at all, however much comes. */
export function gather(work, wait) {
  let timer = null;
  return () => { timer ??= setTimeout(() => { timer = null; work(); }, wait); };
}
