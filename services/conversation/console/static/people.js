/** Finding customers: the list on the left and the search above it. */

import { $, h, icon } from "./dom.js";
import { get, Problem } from "./api.js";
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

/** Show customers in the list, the chosen one marked. */
export function show(customers, chosen, choose) {
  $("people").replaceChildren(...customers.map((customer) => h("li", {},
    h("button", {
      type: "button", class: "person", "aria-current": customer.id === chosen ? "true" : null, "data-id": customer.id,
      onclick: () => choose(customer.id),
    },
    h("span", { class: `face f${hue(customer.id)}`, "aria-hidden": "true" }, say.initials(say.nameOf(customer))),
    h("span", { class: "who" },
      h("span", { class: "name" }, say.nameOf(customer)),
      h("span", { class: "quiet" }, customer.last_seen_at ? say.ago(customer.last_seen_at) : "")),
    h("span", { class: "seen" }, families(customer).map((one) => h("span", { class: `dot ${one}`, title: one }, icon(one), h("span", { class: "hidden" }, one))))))));
}

function families(customer) {
  return [...new Set((customer.channels || []).map(say.family))].filter((one) => one !== "other");
}

/** A stable number 0–5 for an id, for its colour. */
export function hue(id) {
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + letter.charCodeAt(0)) % 6007;
  return sum % 6;
}

/** Say something under the heading of the list. */
export function note(text) {
  $("people-note").textContent = text;
  $("people-note").hidden = !text;
}

export { Problem };
