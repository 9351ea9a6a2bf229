/** The page's course: sign in, list, open a customer, stay up to date. The address's hash names the customer. */

import { $, h } from "./dom.js";
import { get, Problem, signIn, signOut } from "./api.js";
import * as about from "./about.js";
import * as people from "./people.js";
import { nameOf } from "./format.js";
import { Timeline } from "./timeline.js";

const EVERY_MS = 2000;
let current = null; // {id, customer, timeline}
let round = new AbortController();
let query = "";

async function main() {
  theme();
  $("search").addEventListener("submit", (event) => { event.preventDefault(); search($("query").value.trim()); });
  $("query").addEventListener("input", debounce(() => search($("query").value.trim()), 250));
  $("leave").addEventListener("click", async () => { await signOut(); location.assign("/console"); });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) { event.preventDefault(); $("query").focus(); }
  });
  addEventListener("hashchange", async () => { await useKeyFromAddress(); await open(); });
  await useKeyFromAddress();
  welcome();
  await guarded(async () => { await search(""); await open(); });
  tick();
}

/** A link may carry a key after the #, which no server ever sees; it becomes a session and leaves the address. */
async function useKeyFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!given) return;
  const rest = new URLSearchParams(location.hash.slice(1));
  rest.delete("key");
  history.replaceState(null, "", `${location.pathname}${rest.size ? `#${rest}` : ""}`);
  try {
    await signIn(given);
    signedIn();
  } catch (error) {
    people.note(error.message);
  }
}

async function search(text) {
  query = text;
  await guarded(async () => {
    let found;
    try {
      found = text ? await people.find(text) : (await get("/v1/customers?q=")).customers;
    } catch (error) {
      if (!(error instanceof Problem) || error.status === 401 || error.status === 403) throw error;
      found = [];
      people.note(text ? error.message : "Search for a name, an address or a number.");
    }
    if (text !== query) return;
    $("people-title").textContent = text ? "Found" : "Latest customers";
    if (found.length) people.note(""); else if (text) people.note("Nobody by that name or handle.");
    people.show(found, current && current.id, choose);
    $("leave").hidden = false;
  });
}

function choose(id) {
  location.hash = `customer=${encodeURIComponent(id)}`;
}

async function open() {
  const id = new URLSearchParams(location.hash.slice(1)).get("customer");
  round.abort();
  round = new AbortController();
  if (!id) { current = null; welcome(); return; }
  await guarded(async () => {
    const customer = await about.read(id);
    const timeline = new Timeline(customer.id, nameOf(customer), (entries) => about.show(current.customer, entries));
    current = { id: customer.id, customer, timeline };
    await timeline.refresh();
    await timeline.readConversations();
    timeline.draw();
    $("stage").replaceChildren(about.heading(customer), timeline.element);
    document.title = `${nameOf(customer)} · Threadline`;
    for (const one of document.querySelectorAll(".person")) {
      if (one.dataset.id === customer.id) one.setAttribute("aria-current", "true"); else one.removeAttribute("aria-current");
    }
  });
}

/** Ask for news every two seconds while somebody looks at the page. */
async function tick() {
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, EVERY_MS); });
    if (document.hidden || $("sign-in").open) continue;
    const seen = current;
    try {
      if (!query) {
        const latest = await get("/v1/customers?q=", round.signal);
        if (!query) people.show(latest.customers, current && current.id, choose);
      }
      if (seen && await seen.timeline.refresh(round.signal)) await news(seen);
    } catch (error) {
      if (error.status === 401) await askKey();
    }
  }
}

async function news(seen) {
  const customer = await about.read(seen.id, round.signal);
  if (seen !== current) return;
  if (customer.id !== seen.id) { choose(customer.id); return; }
  seen.customer = customer;
  await seen.timeline.readConversations(round.signal);
  const count = seen.timeline.fresh.size;
  seen.timeline.draw();
  $("stage").firstElementChild.replaceWith(about.heading(customer));
  about.show(customer, seen.timeline.sorted());
  if (count) $("said").textContent = `${count} new on the timeline`;
}

function welcome() {
  document.title = "Threadline";
  $("about").replaceChildren();
  $("stage").replaceChildren(h("div", { class: "welcome" },
    h("h1", {}, "Every customer on one line"),
    h("p", {}, "Choose somebody on the left, or search by name, e-mail address, telephone number or any handle such as ", h("code", {}, "crm:4711"), "."),
    h("p", { class: "quiet" }, "Chats, mails, calls and social messages of one person appear together, newest first, grouped by what they are about.")));
}

/** Do something; ask for a key where there is no session, say so where something else is wrong. */
async function guarded(work) {
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (error instanceof Problem && error.status === 401) { await askKey(); await guarded(work); return; }
    $("stage").replaceChildren(h("div", { class: "welcome" }, h("h1", {}, "That did not work"), h("p", { class: "fault" }, error.message)));
  }
}

let asking = null;
let signedIn = () => {};
function askKey() {
  asking ??= new Promise((resolve) => {
    signedIn = () => {
      $("key").value = $("key-fault").textContent = "";
      $("sign-in").close();
      asking = null;
      resolve();
    };
    const dialog = $("sign-in");
    $("leave").hidden = true;
    dialog.showModal();
    dialog.oncancel = (event) => event.preventDefault();
    $("key-form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await signIn($("key").value.trim());
        signedIn();
      } catch (error) {
        $("key-fault").textContent = error.message;
      }
    };
  });
  return asking;
}

function theme() {
  const root = document.documentElement;
  const kept = localStorage.getItem("theme");
  if (kept) root.dataset.theme = kept;
  $("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  });
}

function debounce(work, wait) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(work, wait); };
}

main();
