/** Who this is: handles, channels, open conversations and how the last ones went. */

import { $, h, icon } from "./dom.js";
import * as say from "./format.js";
import { get } from "./api.js";
import { hue } from "./people.js";

/** The customer's name over the timeline. */
export function heading(customer) {
  return h("header", { class: "customer" },
    h("span", { class: `face large f${hue(customer.id)}`, "aria-hidden": "true" }, say.initials(say.nameOf(customer))),
    h("div", {},
      h("h1", {}, say.nameOf(customer)),
      h("p", { class: "quiet" },
        `${plural((customer.channels || []).length, "channel")} · first seen ${say.day(customer.first_seen_at)} · last ${say.ago(customer.last_seen_at)}`),
      h("p", { class: "channels" }, (customer.channels || []).map((channel) =>
        h("span", { class: `badge ${say.family(channel)}` }, icon(say.family(channel)), say.channelName(channel))))));
}

/** Fill the right-hand column. */
export function show(customer, entries) {
  const shown = (customer.handles || []).filter((one) => one.kind !== "contact");
  $("about").replaceChildren(...[
    h("h2", {}, "Known as"),
    h("ul", { class: "handles" }, shown.map((one) => h("li", {},
      h("span", { class: "quiet" }, say.kindName(one.kind)),
      h("span", { class: "value" }, one.value),
      one.verified && h("span", { class: "verified", title: "verified" }, icon("check"), h("span", { class: "hidden" }, "verified"))))),
    (customer.merged_ids || []).length > 0 && h("p", { class: "quiet" }, `${plural(customer.merged_ids.length, "earlier file")} found to be the same person`),
    attributes(customer),
    h("h2", {}, "Now"),
    now(customer, entries),
    scores(entries) && h("h2", {}, "Said about us"),
    scores(entries),
  ].filter(Boolean));
}

function attributes(customer) {
  const pairs = Object.entries(customer.attributes || {}).filter(([, value]) => typeof value !== "object");
  return pairs.length > 0 && h("dl", {}, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}

function now(customer, entries) {
  const waiting = waitingSince(entries);
  const open = (customer.open_conversations || []).length;
  return h("ul", { class: "facts" },
    h("li", {}, h("b", {}, String(open)), open === 1 ? " open conversation" : " open conversations"),
    h("li", { class: waiting ? "waiting" : "" }, waiting ? `Waiting for an answer for ${say.duration((Date.now() - new Date(waiting)) / 1000)}` : "Nobody is waiting"),
    h("li", {}, h("b", {}, String(new Set(entries.map((one) => one.conversation_id).filter(Boolean)).size)), " conversations on this page"));
}

/** One clock over all channels: when the oldest message without a human answer came. */
function waitingSince(entries) {
  let since = null;
  for (const entry of entries) {
    const type = entry.type.replace(/^threadline\./, "");
    const actor = entry.actor && entry.actor.type;
    if ((type === "message.sent" && actor === "agent") || type === "call.answered" || type === "conversation.resolved") break;
    if (type === "message.received") since = entry.occurred_at;
  }
  return since;
}

function scores(entries) {
  const answers = entries.filter((entry) => entry.type.endsWith("survey.answered")).slice(0, 3);
  return answers.length > 0 && h("ul", { class: "facts" }, answers.map((entry) => h("li", {}, say.happened(entry), entry.text && h("q", {}, entry.text))));
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

/** Read the customer again. */
export const read = (id, signal) => get(`/v1/customers/${encodeURIComponent(id)}`, signal);
