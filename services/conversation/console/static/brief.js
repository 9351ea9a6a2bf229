/** The brief for whoever picks up: since when somebody waits, what they asked last, what was asked and promised before. */

import { h, icon } from "/pages/dom.js";
import * as say from "./format.js";

/** The customer's name over the timeline, with one waiting clock over all channels. */
export function heading(customer, summary) {
  return h("header", { class: "customer" },
    h("span", { class: `face large f${say.hue(customer.id)}`, "aria-hidden": "true" }, say.initials(customer)),
    h("div", { class: "called" },
      h("h1", {}, say.nameOf(customer)),
      h("p", { class: "quiet" }, [
        say.plural((customer.channels || []).length, "channel"),
        customer.first_seen_at && `first seen ${say.day(customer.first_seen_at)}`,
        customer.last_seen_at && `last heard ${say.ago(customer.last_seen_at)}`,
      ].filter(Boolean).join(" · ")),
      h("p", { class: "channels" }, (customer.channels || []).map((channel) =>
        h("span", { class: `badge ${say.family(channel)}` }, icon(say.family(channel)), say.channelName(channel))))),
    clock(summary && summary.waiting_since));
}

function clock(since) {
  if (!since) return h("p", { class: "clock none" }, "Nobody is waiting");
  return h("p", { class: "clock" }, h("span", {}, "Waiting"), h("time", { class: "ticks", datetime: since, title: say.full(since) }, say.since(since)));
}

/** Let every clock on the page go on. */
export function tick() {
  for (const one of document.querySelectorAll("time.ticks")) one.textContent = say.since(one.dateTime);
}

/** The brief itself; null where there is nothing to tell. */
export function brief(context) {
  const { summary, conversation, sla } = context;
  if (!conversation) return null;
  const rows = [
    ["Last question", question(summary)],
    ["Answer due", due(sla)],
    ["Went over", summary.channels.length > 1 && summary.channels.map(say.channelName).join(" → ")],
    ["Handed over", list(summary.escalations, (one) => [
      `${say.channelName(one.from_channel)} → ${say.channelName(one.to_channel)}${one.reason ? `: ${one.reason}` : ""}`,
      one.acknowledged_at ? " (picked up)" : h("b", { class: "open" }, " (not picked up yet)")])],
    ["Transferred", list(summary.transfers, (one) => `${one.to || one.to_agent || one.to_team || "elsewhere"}${one.reason ? `: ${one.reason}` : ""}, ${say.ago(one.at)}`)],
    ["Asked before", list(summary.asked, (one) => `${one.field.replaceAll("_", " ")}, ${say.ago(one.at)}`)],
    ["Promised", list(summary.promises, (one) => h("q", {}, say.shortened(one.text || say.happened(one) || "", 140)))],
    ["Spoke with", list(summary.agents, (one) => `${one.name || one.id}${one.team ? ` (${one.team})` : ""}, ${say.ago(one.last_at)}`)],
    ["About", (summary.topics || []).join(", ")],
  ].filter(([, what]) => what && what.length !== 0);
  return h("section", { class: "brief", "aria-label": "Brief" },
    h("h2", {}, conversation.state === "open" ? "Open conversation" : "Last conversation",
      h("span", { class: "quiet" }, conversation.opened_at ? ` since ${say.day(conversation.opened_at)}` : ""),
      conversation.assignee && h("span", { class: "quiet" }, ` · with ${conversation.assignee}`),
      h("span", { class: `state ${conversation.state}` }, conversation.state)),
    h("dl", {}, rows.flatMap(([name, what]) => [h("dt", {}, name), h("dd", {}, what)])));
}

function question(summary) {
  const asked = summary.last_customer_question;
  if (!asked) return null;
  return [h("q", {}, say.shortened(asked.text || asked.subject || "(no text)", 240)),
    h("span", { class: summary.unanswered ? "open" : "quiet" }, ` ${say.channelName(asked.channel)}, ${say.ago(asked.occurred_at)}, ${summary.unanswered ? "not answered" : "answered"}`)];
}

function due(sla) {
  const at = sla && (sla.first_reply_due_at || sla.resolution_due_at);
  if (!at) return null;
  return h("span", { class: sla.breached ? "open" : "" }, `${say.full(at)}${sla.breached ? ", missed" : `, ${say.ago(at)}`}`);
}

function list(items, shown) {
  return (items || []).length > 0 && h("ul", {}, items.slice(-4).map((one) => h("li", {}, shown(one))));
}
