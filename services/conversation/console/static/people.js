/** Finding customers: the list on the left and the search above it. */

import { get } from "/pages/api.js";
import { $, h, icon } from "/pages/dom.js";
import * as say from "./format.js";

/** Return customers for what somebody typed: a handle, an address, a number or a name. */
export async function find(text, signal) {
  const handle = asHandle(text);
  if (handle) {
    const found = await get(`/v1/customers?handle=${encodeURIComponent(handle)}`, signal);
    if (found.customers.length || text.includes(":")) return found.customers;
  }
  return (await get(`/v1/customers?q=${encodeURIComponent(text)}`, signal)).customers;
}

function asHandle(text) {
  if (/^[a-z_]+:.+/i.test(text)) return text;
  if (/^[^\s@]+@[^\s@]+$/.test(text)) return `email:${text}`;
  if (/^\+?[\d\s().-]{7,}$/.test(text)) return `phone:${text.replace(/[\s().-]/g, "")}`;
  return null;
}

/** Show customers in the list, the chosen one marked. What somebody is about to press stays in the keyboard's hands. */
export function show(customers, chosen, choose) {
  const held = document.activeElement?.dataset?.id;
  $("people").replaceChildren(...customers.map((customer) => h("li", {},
    h("button", {
      type: "button", class: "person", "aria-current": customer.id === chosen ? "true" : null, "data-id": customer.id,
      onclick: () => choose(customer.id),
    },
    h("span", { class: `face f${say.hue(customer.id)}`, "aria-hidden": "true" }, say.initials(customer)),
    h("span", { class: "who" },
      h("span", { class: "name" }, say.nameOf(customer)),
      h("span", { class: "quiet" }, customer.last_seen_at ? say.ago(customer.last_seen_at) : "")),
    h("span", { class: "seen" }, families(customer).map((one) => h("span", { class: `dot ${one}`, title: one }, icon(one), h("span", { class: "hidden" }, one))))))));
  if (held) $("people").querySelector(`[data-id="${CSS.escape(held)}"]`)?.focus();
}

/** Mark the chosen one. */
export function mark(id) {
  for (const one of $("people").querySelectorAll(".person")) {
    if (one.dataset.id === id) one.setAttribute("aria-current", "true"); else one.removeAttribute("aria-current");
  }
}

/** Let the arrow keys go through the list. */
export function keys() {
  $("people").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const all = [...$("people").querySelectorAll(".person")];
    const place = all.indexOf(document.activeElement);
    if (!step || place < 0) return;
    event.preventDefault();
    all[Math.min(Math.max(place + step, 0), all.length - 1)].focus();
  });
}

function families(customer) {
  return [...new Set((customer.channels || []).map(say.family))].filter((one) => one !== "other");
}

/** Say something under the heading of the list. */
export function note(text) {
  $("people-note").textContent = text;
  $("people-note").hidden = !text;
}
