/** One customer on one line: newest first, by day, with the conversation each entry belongs to. */

import { get } from "/pages/api.js";
import { h, icon } from "/pages/dom.js";
import { keep, kept } from "/pages/session.js";
import * as say from "./format.js";

const PAGE = 60;

/** Ways of placing an entry that need no word: it began the conversation, or goes on where it was. */
const OBVIOUS = new Set(["", "none", "new", "session", "derived", undefined, null]);

export class Timeline {
  constructor(customerId, name, family = "") {
    this.customerId = customerId;
    this.name = name;
    this.entries = new Map();
    this.before = undefined;
    this.family = family;
    this.story = kept("story") !== "all";
    this.fresh = new Set();
    this.conversations = new Map();
    this.rows = new Map(); // entry id → its row, kept while nothing of it changes: what is unfolded stays so
    this.list = h("ol", { class: "line" });
    this.more = h("button", { class: "plain wide", type: "button", onclick: () => this.older() }, "Earlier");
    this.bar = h("div", { class: "filters", role: "group", "aria-label": "What to show" });
    this.element = h("section", { "aria-label": "Timeline" }, this.bar, this.list, this.more);
  }

  /** Read the newest page. */
  async read(signal) {
    const page = await get(this.path(`limit=${PAGE}`), signal);
    this.before = page.before;
    this.take(page.entries, false);
  }

  /** Take what the stream tells, unless it belongs to a page that was not asked for yet. */
  told(entry) {
    const oldest = this.before && this.sorted().at(-1);
    if (oldest && entry.occurred_at < oldest.occurred_at && !this.entries.has(entry.id)) return;
    this.take([{ ...entry, via: entry.customer_id === this.customerId ? "identity" : "conversation" }], true);
  }

  /** An entry is gone: taken back, erased, or of somebody else now. */
  removed(id) {
    this.entries.delete(id);
  }

  /** Read what conversations are about and how they stand: `ids`, or the newest ones shown. */
  async readConversations(signal, ids = null) {
    const wanted = ids ? [...ids] : [...new Set(this.sorted().map((entry) => entry.conversation_id).filter(Boolean))].slice(0, 12);
    const found = await Promise.all(wanted.map((id) => get(`/v1/conversations/${encodeURIComponent(id)}`, signal).catch(() => null)));
    found.forEach((one, place) => { if (one) this.conversations.set(wanted[place], one); });
  }

  /** Read the page before the oldest entry shown. */
  async older() {
    if (!this.before) return;
    this.more.disabled = true;
    try {
      const page = await get(this.path(`limit=${PAGE}&before=${encodeURIComponent(this.before)}`));
      this.before = page.before;
      this.take(page.entries, false);
      this.more.textContent = "Earlier";
      this.draw();
    } catch (error) {
      this.more.textContent = `${error.message} Try again`;
    }
    this.more.disabled = false;
  }

  path(query) {
    return `/v1/customers/${encodeURIComponent(this.customerId)}/timeline?${query}`;
  }

  /** Take entries; a newer version of a known one takes its place. */
  take(entries, mark) {
    for (const entry of entries) {
      const known = this.entries.get(entry.id);
      if (known && (known.version ?? 0) >= (entry.version ?? 0)) continue;
      if (!known && mark) this.fresh.add(entry.id);
      this.entries.set(entry.id, entry);
    }
  }

  sorted() {
    const order = (a, b) => (a.occurred_at === b.occurred_at
      ? (`${b.source} ${b.event_id}` < `${a.source} ${a.event_id}` ? -1 : 1)
      : a.occurred_at < b.occurred_at ? 1 : -1);
    return [...this.entries.values()].sort(order);
  }

  draw() {
    const all = this.sorted();
    this.drawBar(all);
    const shown = all.filter((entry) => (!this.story || say.isStory(entry)) && (!this.family || say.family(entry.channel) === this.family));
    const numbers = conversationNumbers(all);
    const rows = [];
    let today = "", talk;
    for (const entry of shown) {
      const date = say.day(entry.occurred_at);
      if (date !== today) rows.push(h("li", { class: "day" }, h("h3", {}, (today = date))));
      if (entry.conversation_id !== talk && entry.conversation_id) {
        rows.push(h("li", { class: `talk c${numbers.get(entry.conversation_id) % 6}` }, this.title(entry, all, numbers)));
      }
      talk = entry.conversation_id;
      rows.push(this.row(entry, numbers));
    }
    if (!rows.length) rows.push(h("li", { class: "quiet nothing" }, all.length ? "Nothing to show with these filters." : "Nothing has happened yet."));
    const held = document.activeElement;
    this.list.replaceChildren(...rows);
    if (held && held !== document.activeElement && this.list.contains(held)) held.focus();
    this.more.hidden = !this.before;
    this.fresh.clear();
  }

  drawBar(all) {
    const families = [...new Set(all.map((entry) => say.family(entry.channel)))].filter((one) => one !== "other");
    const choose = (value, label, glyph) => h("button", {
      type: "button", class: "chip", "aria-pressed": String(this.family === value),
      onclick: () => { this.family = value; this.draw(); },
    }, glyph && icon(glyph), label);
    const labels = { chat: "Chat", email: "E-mail", phone: "Phone", social: "Social", self_service: "Help pages" };
    this.bar.replaceChildren(
      choose("", "All channels"),
      ...families.map((one) => choose(one, labels[one] || one, one)),
      h("label", { class: "switch" },
        h("input", { type: "checkbox", checked: !this.story, onchange: (event) => {
          this.story = !event.target.checked;
          keep("story", this.story ? "story" : "all");
          this.draw();
        } }), "Every event"),
    );
  }

  title(entry, all, numbers) {
    const told = this.conversations.get(entry.conversation_id) || {};
    const mine = all.filter((one) => one.conversation_id === entry.conversation_id);
    const channels = told.channels || [...new Set(mine.map((one) => one.channel).filter(Boolean))].reverse();
    return h("h4", {},
      h("span", {}, `Conversation ${numbers.get(entry.conversation_id) + 1}`),
      told.topic && h("span", { class: "topic" }, told.topic),
      h("span", { class: "route" }, channels.map(say.channelName).join(" → ")),
      told.state && h("span", { class: `state ${told.state}` }, told.state));
  }

  row(entry, numbers) {
    const colour = entry.conversation_id ? `c${numbers.get(entry.conversation_id) % 6}` : "none";
    const key = `${entry.version} ${colour} ${entry.via}`;
    const known = this.rows.get(entry.id);
    if (known && known.key === key) return known.row;
    const event = say.happened(entry);
    const mine = entry.direction === "out" ? "out" : entry.direction === "internal" || event ? "note" : "in";
    const row = h("li", { class: `entry ${event ? "note" : mine} ${colour}${this.fresh.has(entry.id) ? " fresh" : ""}`, "data-id": entry.id },
      badge(entry), event ? noteBody(entry, event) : messageBody(entry, this.name));
    this.rows.set(entry.id, { key, row });
    return row;
  }
}

/** Number conversations by age, so that each keeps its colour. */
function conversationNumbers(all) {
  const numbers = new Map();
  for (let place = all.length - 1; place >= 0; place -= 1) {
    const id = all[place].conversation_id;
    if (id && !numbers.has(id)) numbers.set(id, numbers.size);
  }
  return numbers;
}

/** The round mark of an entry's channel on the line. */
export function badge(entry) {
  const family = say.family(entry.channel);
  return h("span", { class: `mark ${family}`, title: say.channelName(entry.channel) }, icon(family), h("span", { class: "hidden" }, say.channelName(entry.channel)));
}

function stamp(entry) {
  return h("time", { datetime: entry.occurred_at, title: say.full(entry.occurred_at) }, say.time(entry.occurred_at));
}

function placed(entry) {
  if (!entry.stitched || OBVIOUS.has(entry.stitched.rule)) return null;
  const rule = entry.stitched.rule.replaceAll("_", " ");
  return h("span", { class: "rule", title: entry.stitched.key ? `placed by ${rule}: ${entry.stitched.key}` : `placed by ${rule}` }, rule);
}

function messageBody(entry, name) {
  const actor = entry.actor || {};
  const who = entry.direction === "in" ? (entry.via === "conversation" ? entry.handle || "Somebody else" : name) : actor.type === "bot" ? "Bot" : actor.name || actor.id || "Agent";
  return h("article", { class: "bubble" },
    h("header", {},
      h("strong", {}, entry.direction === "in" ? actor.name || who : who),
      actor.team && h("span", { class: "team" }, actor.team),
      h("span", { class: "where" }, say.channelName(entry.channel)), placed(entry), stamp(entry)),
    entry.subject && h("h5", {}, entry.subject),
    h("p", { class: "text" }, entry.text || (entry.html ? "(only formatted text)" : "(no text)")),
    entry.quoted_text && h("details", {}, h("summary", {}, "Quoted text"), h("pre", {}, entry.quoted_text)),
    (entry.attachments || []).length > 0 && h("ul", { class: "files" }, entry.attachments.map((file) => h("li", {}, fileName(file)))),
    entry.via === "conversation" && entry.direction === "in" && h("p", { class: "quiet" }, "from an address that is not known to be theirs"));
}

/** The name of a file; a link where Threadline has its bytes. A sender's own address is followed by nobody from here. */
function fileName(file) {
  const name = file.name || "attachment";
  return (file.url || "").startsWith("/v1/attachments/") ? h("a", { href: file.url, download: name }, name) : name;
}

function noteBody(entry, words) {
  const score = entry.type.endsWith("survey.answered");
  return h("div", { class: score ? "noted score" : "noted" }, h("span", {}, words), entry.text && h("q", {}, entry.text), placed(entry), stamp(entry));
}
