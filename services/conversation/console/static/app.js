/** The page's course: sign in, list, open a customer, stay up to date. The address's hash names the customer. */

import { get, Problem } from "/pages/api.js";
import { $, h } from "/pages/dom.js";
import * as session from "/pages/session.js";
import { about } from "./about.js";
import { brief, heading, tick } from "./brief.js";
import { nameOf } from "./format.js";
import * as identity from "./identity.js";
import * as people from "./people.js";
import { Stream } from "./stream.js";
import { Timeline } from "./timeline.js";
import { debounce, gather } from "./timing.js";

const GATHER_MS = 300; // what comes together is drawn together
const AGAIN_MS = 3000;
const LIST_EVERY_MS = 15_000; // beside an open customer, whose stream tells of nobody else

let current = null; // {id, customer, context, told, timeline}
let stream = null;
let round = new AbortController();
let query = "";

async function main() {
  session.prepare("/console");
  people.keys();
  $("search").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  $("query").addEventListener("input", debounce(search, 250));
  $("back").addEventListener("click", () => { location.hash = ""; });
  $("decide-cancel").addEventListener("click", () => $("decide").close());
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(event.target.tagName)) { event.preventDefault(); $("query").focus(); }
  });
  addEventListener("hashchange", async () => { await session.useKeyFromAddress(); open(); });
  await session.useKeyFromAddress();
  setInterval(tick, 1000);
  setInterval(() => { if (current && !document.hidden) latest(); }, LIST_EVERY_MS);
  await search();
  open();
}

/** Show whom the search finds, or who was heard last. */
async function search() {
  const text = query = $("query").value.trim();
  try {
    const found = await session.signedIn(() => (text ? people.find(text) : get("/v1/customers?q=").then((one) => one.customers)));
    if (text !== query) return;
    $("people-title").textContent = text ? "Found" : "Latest customers";
    people.note(found.length ? "" : text ? "Nobody by that name or handle." : "Nobody has got in touch yet. The first message shows up here by itself.");
    people.show(found, current && current.id, choose);
  } catch (error) {
    people.note(error.message);
  }
}

const latest = gather(() => { if (!query) search(); }, 1000);

function choose(id) {
  location.hash = `customer=${encodeURIComponent(id)}`;
}

function open() {
  const id = new URLSearchParams(location.hash.slice(1)).get("customer");
  leave();
  document.body.classList.toggle("reading", Boolean(id));
  people.mark(id);
  if (current && current.id !== id) current = null;
  if (!id) welcome(); else if (!current) wait();
  follow(id);
}

/** Let go of whoever was shown. */
function leave() {
  round.abort();
  round = new AbortController();
  stream?.close();
  stream = null;
}

/** Read a customer in whole. */
async function read(id, signal) {
  const [context, told] = await Promise.all([get(`/v1/customers/${encodeURIComponent(id)}/context`, signal), identity.read(id, signal)]);
  const { customer } = context;
  const timeline = new Timeline(customer.id, nameOf(customer), current?.timeline.family);
  await timeline.read(signal);
  await timeline.readConversations(signal);
  return { id: customer.id, customer, context, told, timeline };
}

function draw() {
  const { customer, context, told, timeline } = current;
  const count = timeline.fresh.size;
  timeline.draw();
  $("stage").removeAttribute("aria-busy");
  const over = [heading(customer, context.summary), brief(context)].filter(Boolean);
  if ($("stage").lastElementChild === timeline.element) {
    while ($("stage").firstElementChild !== timeline.element) $("stage").firstElementChild.remove();
    timeline.element.before(...over);
  } else $("stage").replaceChildren(...over, timeline.element);
  $("about").replaceChildren(...about(customer, context.summary), ...identity.identity(customer, told, decided));
  document.title = `${nameOf(customer)} · Threadline`;
  people.mark(customer.id);
  if (count) $("said").textContent = `${count} new on the timeline`;
}

/** An agent decided who is who: show what came of it. */
function decided(id, said) {
  $("said").textContent = said;
  notice(said);
  if (new URLSearchParams(location.hash.slice(1)).get("customer") === id) open(); else choose(id);
  latest();
}

/**
 * Stay up to date with one customer, or, where nobody is open, with whoever is heard from.
 *
 * The stream is open before the first reading, so nothing can happen in between; what it tells until that is done waits.
 */
function follow(id) {
  const { signal } = round;
  const talks = new Set();
  let early = [];
  let begun = false;

  const everything = async () => {
    begun = true;
    early ??= [];
    await attempt(async () => {
      const found = await read(id, signal);
      for (const tell of early) tell(found.timeline);
      early = null;
      if (signal.aborted) return;
      current = found;
      if (found.id !== id) history.replaceState(null, "", `#customer=${encodeURIComponent(found.id)}`);
      draw();
    }, signal);
  };
  const soon = gather(() => attempt(async () => {
    const { timeline } = current;
    const [context] = await Promise.all([
      get(`/v1/customers/${encodeURIComponent(id)}/context`, signal), timeline.readConversations(signal, talks)]);
    talks.clear();
    if (signal.aborted || timeline !== current.timeline) return;
    Object.assign(current, { context, customer: context.customer });
    draw();
    latest();
  }, signal), GATHER_MS);
  const tell = (told) => { if (early) early.push(told); else { told(current.timeline); soon(); } };

  stream = new Stream(id ? `?customer_id=${encodeURIComponent(id)}` : "", id ? {
    entry: (entry) => { if (entry.conversation_id) talks.add(entry.conversation_id); tell((timeline) => timeline.told(entry)); },
    removed: (gone) => tell((timeline) => timeline.removed(gone)),
    reset: everything,
    state: (name) => { state(name); if (name === "away" && !begun) everything(); },
    failed: refused,
  } : { entry: latest, removed: latest, reset: latest, state, failed: refused });
}

/** Do something for whoever is open. Where that fails what is shown stays, and everything is read again soon. */
async function attempt(work, signal) {
  try {
    await session.signedIn(work);
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    if (!(error instanceof Problem)) throw error;
    if (!current || error.status === 404) failed(error); else state("away");
    // What was to be read is not known now, and the stream tells it only once: read everything again.
    if (error.status !== 404) setTimeout(() => { if (!signal.aborted) stream.startOver(); }, AGAIN_MS);
  }
}

function refused(problem) {
  if (problem.status === 401 || problem.status === 403) session.askKey().then(open); else failed(problem);
}

function state(name) {
  $("live").dataset.state = name;
  $("live").textContent = name === "live" ? "Live" : "No connection";
  $("away").hidden = name === "live";
}

function wait() {
  document.title = "Threadline";
  $("about").replaceChildren();
  $("stage").setAttribute("aria-busy", "true");
  $("stage").replaceChildren(h("p", { class: "welcome quiet" }, "Reading the timeline…"));
}

function welcome() {
  current = null;
  document.title = "Threadline";
  people.mark(null);
  $("about").replaceChildren();
  $("stage").removeAttribute("aria-busy");
  $("stage").replaceChildren(h("div", { class: "welcome" },
    h("h1", {}, "Every customer on one line"),
    h("p", {}, "Choose somebody on the left, or search by name, e-mail address, telephone number or any handle such as ", h("code", {}, "crm:4711"), "."),
    h("p", { class: "quiet" }, "Chats, mails, calls and social messages of one person appear together, newest first, grouped by what they are about.")));
}

function failed(error) {
  $("stage").removeAttribute("aria-busy");
  const gone = error instanceof Problem && error.status === 404;
  $("stage").replaceChildren(h("div", { class: "welcome", role: "alert" },
    h("h1", {}, gone ? "There is no such customer" : "That did not work"),
    h("p", { class: "fault" }, gone ? "The link is wrong, or everything about them was erased." : error.message),
    !gone && h("p", {}, h("button", { class: "second", type: "button", onclick: open }, "Try again"))));
}

let noticed;
function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
  clearTimeout(noticed);
  noticed = setTimeout(() => { $("notice").hidden = true; }, 8000);
}

main();
