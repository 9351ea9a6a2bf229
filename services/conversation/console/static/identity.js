/** Why this is one person, who else it may be, and the buttons that say so: same person, another person, undo. */

import { get, post } from "/pages/api.js";
import { $, h } from "/pages/dom.js";
import * as people from "./people.js";
import * as say from "./format.js";
import { debounce } from "./timing.js";

const RULES = {
  named_together: "named together", same_session: "in one session", manual_merge: "said by an agent",
  do_not_link: "kept apart by an agent",
};
const REASONS = { same_conversation: "wrote in the same conversation", same_name: "same name", same_name_and_company: "same name and company", same_mailbox_name: "same mailbox name elsewhere", near_handle: "nearly the same address or number" };
const DECIDED = { merge: "Said to be one person", split: "Said to be two", policy: "Regrouped by another policy" };

const SHOWN = 3;

const path = (id, what) => `/v1/customers/${encodeURIComponent(id)}/${what}`;
const worded = (rule) => RULES[rule] || rule.replaceAll("_", " ");

/** Read everything about a customer's identity; suggestions come with the customer they name. */
export async function read(id, signal) {
  const identity = await get(path(id, "identity"), signal);
  const others = identity.suggestions.slice(0, 5);
  const found = await Promise.all(others.map((one) => get(`/v1/customers/${encodeURIComponent(one.customer_id)}`, signal).catch(() => null)));
  return { ...identity, others: others.map((one, place) => ({ ...one, customer: found[place] })).filter((one) => one.customer) };
}

/** The lower part of the right-hand column. `changed(id, said)` is called when an agent decided. */
export function identity(customer, told, changed) {
  const handles = (customer.handles || []).filter((one) => one.kind !== "contact" && one.kind !== "anonymous");
  const why = byEvent(told.links);
  const undo = undoable(told, customer, changed);
  return [
    h("h2", {}, "Why one person"),
    why.length ? h("ul", { class: "links" }, why.slice(0, SHOWN).map(reason))
      : h("p", { class: "quiet" }, "One handle, so nothing had to be put together."),
    why.length > SHOWN && h("details", {}, h("summary", {}, `${why.length - SHOWN} more`), h("ul", { class: "links" }, why.slice(SHOWN).map(reason))),
    told.refused.length > 0 && h("details", {}, h("summary", {}, `${say.plural(told.refused.length, "link")} refused`),
      h("ul", { class: "links" }, told.refused.map((one) => h("li", {}, together([one.a, one.b]), h("span", { class: "quiet" }, one.reason.replaceAll("_", " ")))))),
    h("p", { class: "buttons" },
      h("button", { class: "second", type: "button", id: "merge", onclick: () => askMerge(customer, null, changed) }, "Same person as…"),
      handles.length > 1 && h("button", { class: "second", type: "button", id: "split", onclick: () => askSplit(customer, handles, changed) }, "Not one person…")),
    told.others.length > 0 && h("h2", {}, "May also be"),
    told.others.length > 0 && h("ul", { class: "others" }, told.others.map((one) => other(one, customer, changed))),
    told.history.length > 0 && h("h2", {}, "Decided by people"),
    told.history.length > 0 && h("ol", { class: "facts" }, told.history.slice(-5).reverse().map((one, place) => h("li", {},
      `${DECIDED[one.op]}${one.actor ? ` by ${agent(one.actor)}` : ""}`,
      h("span", { class: "quiet" }, ` ${say.ago(one.at)}`), one.reason && h("q", {}, one.reason),
      place === 0 && undo && h("button", { class: "second", type: "button", id: "undo", onclick: undo }, "Undo")))),
  ].filter(Boolean);
}

/** One event often names many handles: tell it once, with all of them. What joins most comes first. */
function byEvent(links) {
  const events = new Map();
  for (const one of links) {
    const key = `${one.rule} ${one.evidence.source} ${one.evidence.event_id}`;
    if (!events.has(key)) events.set(key, { ...one, nodes: new Set() });
    events.get(key).nodes.add(one.a).add(one.b);
  }
  const handles = (one) => [...one.nodes].filter((node) => !node.startsWith("contact:")).length;
  return [...events.values()].sort((a, b) => handles(b) - handles(a));
}

function reason(one) {
  return h("li", {}, together([...one.nodes]),
    h("span", { class: "quiet" }, `${worded(one.rule)}, ${say.day(one.decided_at)}`),
    one.rule !== "manual_merge" && h("span", { class: "quiet proof" }, `${one.evidence.source} · ${one.evidence.event_id}`));
}

/** Handles that are one, the sessions among them counted. */
function together(nodes) {
  const names = nodes.filter((node) => !node.startsWith("contact:")).map(say.handleName);
  const sessions = nodes.length - names.length;
  return h("span", { class: "pair" }, [...names, sessions && say.plural(sessions, "session")].filter(Boolean).join(" = "));
}

function other(one, customer, changed) {
  return h("li", {},
    h("a", { href: `#customer=${encodeURIComponent(one.customer_id)}` }, say.nameOf(one.customer)),
    h("span", { class: "quiet" }, handlesOf(one.customer)),
    h("span", { class: "quiet" }, one.reasons.map((reason) => REASONS[reason] || reason).join(", ")),
    h("button", { class: "second", type: "button", onclick: () => askMerge(customer, one.customer, changed) }, "Same person"));
}

// Who has no name but a key is told by the beginning of its id, as `threadline keys list` shows it.
const agent = (id) => (/^[0-9a-f]{8}-/.test(id) ? `key ${id.slice(0, 8)}` : id);

const handlesOf = (customer) => (customer.handles || []).filter((one) => one.kind !== "contact").map((one) => one.value).join(", ");

/** What takes the newest decision back; null where that cannot be told. */
function undoable(told, customer, changed) {
  const last = told.history.at(-1);
  if (!last || last.op === "policy") return null; // a policy is taken back by a policy
  // Handles are shown as they were given; links name them in their matching form, as decisions do.
  const mine = new Set([...(customer.handles || []).map((one) => `${one.kind}:${one.value}`), ...told.links.flatMap((one) => [one.a, one.b])]);
  if (last.op === "merge") {
    const side = last.handles.find((nodes) => nodes.every((node) => mine.has(node)));
    return side && (() => decide(() => post(path(customer.id, "split"), { handles: side, reason: "undone" }), customer.id, "They are two again.", changed));
  }
  const side = last.handles.find((nodes) => !nodes.some((node) => mine.has(node)));
  return side && (() => decide(async () => {
    const [found] = (await get(`/v1/customers?handle=${encodeURIComponent(side[0])}`)).customers;
    return post(path(customer.id, "merge"), { with: found.id, reason: "undone" });
  }, null, "They are one again.", changed));
}

async function decide(work, stay, said, changed) {
  const fault = $("decide-fault");
  try {
    const answer = await work();
    $("decide").close();
    await changed(stay || answer.customer_id, said);
  } catch (error) {
    if (!$("decide").open) openDialog("That did not work", []);
    fault.textContent = error.message;
  }
}

/** Ask who is the same person, and why. `chosen` is somebody suggested. */
function askMerge(customer, chosen, changed) {
  const found = h("ul", { class: "choose", "aria-live": "polite" });
  const reason = reasonField();
  let other = chosen;
  const ready = h("button", { class: "main", type: "submit", disabled: !chosen }, "They are one person");
  const pick = (one) => h("li", {}, h("label", {},
    h("input", { type: "radio", name: "other", checked: other && other.id === one.id, onchange: () => { other = one; ready.disabled = false; } }),
    h("span", {}, say.nameOf(one), h("span", { class: "quiet" }, ` ${handlesOf(one)}`))));
  const look = async (event) => {
    const text = event.target.value.trim();
    const all = text ? await people.find(text).catch(() => []) : [];
    const others = all.filter((one) => one.id !== customer.id).slice(0, 6);
    found.replaceChildren(...(others.length || !text ? others.map(pick) : [h("li", { class: "quiet" }, "Nobody else by that name or handle.")]));
  };
  if (chosen) found.append(pick(chosen));
  openDialog(`${say.nameOf(customer)} is the same person as…`, [
    !chosen && h("label", {}, "Name or handle", h("input", { type: "search", id: "other", autocomplete: "off", oninput: debounce(look, 250) })),
    found, reason.label, ready,
  ], () => decide(() => post(path(customer.id, "merge"), { with: other.id, ...reason.value() }), null, "They are one person now. Undo stands on the right.", changed));
}

/** Ask which handles are somebody else's, and why. */
function askSplit(customer, handles, changed) {
  const reason = reasonField();
  const boxes = handles.map((one) => h("input", { type: "checkbox", value: `${one.kind}:${one.value}` }));
  const ready = h("button", { class: "main", type: "submit", disabled: true, "aria-describedby": "split-why" }, "They are two persons");
  const why = h("p", { id: "split-why", class: "quiet", role: "status" });
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  const look = () => {
    why.textContent = hindrance(chosen().length, boxes.length);
    ready.disabled = Boolean(why.textContent);
  };
  const list = h("ul", { class: "choose", onchange: look },
    handles.map((one, place) => h("li", {}, h("label", {}, boxes[place], h("span", {}, one.value, h("span", { class: "quiet" }, ` ${say.kindName(one.kind)}`))))));
  openDialog("Which of these belong to somebody else?", [list, reason.label, h("div", { class: "act" }, ready, why)],
    () => decide(() => post(path(customer.id, "split"), { handles: chosen(), ...reason.value() }), customer.id, "They are two persons now. Undo stands on the right.", changed));
  look();
}

/** Why some of several handles cannot be somebody else's; nothing where they can. */
function hindrance(chosen, of) {
  if (!chosen) return "Tick what is somebody else's.";
  return chosen === of ? "With all of them ticked nothing is left of this person: leave at least one." : "";
}

function reasonField() {
  const field = h("input", { type: "text", maxlength: 2000, autocomplete: "off" });
  return { label: h("label", {}, "Why (for whoever asks later)", field), value: () => (field.value.trim() ? { reason: field.value.trim() } : {}) };
}

function openDialog(title, parts, submit) {
  $("decide-title").textContent = title;
  $("decide-fault").textContent = "";
  $("decide-body").replaceChildren(...parts.filter(Boolean));
  $("decide-form").onsubmit = async (event) => {
    event.preventDefault();
    if (!submit) { $("decide").close(); return; }
    const button = $("decide-body").querySelector("button[type=submit]");
    button.disabled = true;
    await submit();
    button.disabled = false;
  };
  $("decide").showModal();
}
