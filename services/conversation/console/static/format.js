/** How times, handles and events are said in words. */

const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const AGO = new Intl.RelativeTimeFormat(undefined, { numeric: "auto", style: "short" });

export const day = (instant) => DAY.format(new Date(instant));
export const time = (instant) => TIME.format(new Date(instant));
export const full = (instant) => FULL.format(new Date(instant));

/** How long ago, in the largest unit that fits. */
export function ago(instant) {
  const seconds = (new Date(instant) - Date.now()) / 1000;
  for (const [unit, size] of [["day", 86400], ["hour", 3600], ["minute", 60]]) {
    if (Math.abs(seconds) >= size) return AGO.format(Math.round(seconds / size), unit);
  }
  return "just now";
}

/** Seconds as minutes and hours. */
export function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60 ? `${whole % 60} s` : ""}`.trim();
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.round(whole / 86400)} d`;
}

const NAMES = {
  chat: "Chat", web: "Web", email: "E-mail", phone: "Phone", sms: "SMS", whatsapp: "WhatsApp", messenger: "Messenger",
  instagram: "Instagram", telegram: "Telegram", slack: "Slack", teams: "Teams", line: "LINE", viber: "Viber", wechat: "WeChat",
  x: "X", portal: "Help pages", self_service: "Help pages", search: "Search", app: "App",
};
export const channelName = (channel) => NAMES[channel] || channel || "Elsewhere";

const FAMILIES = {
  chat: "chat", web: "chat", slack: "chat", teams: "chat", email: "email", phone: "phone", portal: "self_service",
  self_service: "self_service", search: "self_service", app: "self_service",
};
const SOCIAL = new Set(["sms", "whatsapp", "messenger", "instagram", "telegram", "x", "line", "viber", "wechat", "social"]);
export const family = (channel) => FAMILIES[channel] || (SOCIAL.has(channel) ? "social" : "other");

const KINDS = {
  email: "e-mail", phone: "telephone", visitor: "browser", crm: "customer no.", messenger: "Messenger", instagram: "Instagram",
  telegram: "Telegram", whatsapp: "WhatsApp", slack: "Slack", teams: "Teams",
};
export const kindName = (kind) => KINDS[kind] || kind;

/** First letters of a name, for the round picture. */
export function initials(customer) {
  const words = (customer.name || "").trim().split(/\s+/).filter(Boolean);
  if (!words.length) return "?";
  return (first(words[0]) + (words.length > 1 ? first(words.at(-1)) : "")).toUpperCase();
}

const first = (word) => String.fromCodePoint(word.codePointAt(0));

/** What stands for a customer without a name. */
export function nameOf(customer) {
  if (customer.name) return customer.name;
  const handle = (customer.handles || []).find((one) => one.kind !== "contact" && one.kind !== "visitor") || (customer.handles || [])[0];
  if (!handle || handle.kind === "visitor" || handle.kind === "contact") return "Unknown visitor";
  return handle.kind === "crm" ? `Customer ${handle.value}` : handle.value;
}

/** `kind:value` in words. */
export function handleName(node) {
  const [kind, ...rest] = node.split(":");
  return `${kind === "email" || kind === "phone" ? "" : `${kindName(kind)} `}${rest.join(":")}`;
}

/** A stable number 0–5 for an id, for its colour. */
export function hue(id) {
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + letter.charCodeAt(0)) % 6007;
  return sum % 6;
}

export const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

/** How long since, for a clock. */
export const since = (instant) => duration(Math.max(0, (Date.now() - new Date(instant)) / 1000));

export const shortened = (text, most) => (text.length > most ? `${text.slice(0, most).trimEnd()}…` : text);

const LATIN = (type) => (type || "").replace(/^threadline\./, "");

/** What an event that is not a message says, in a few words; null for a message. */
export function happened(entry) {
  const data = { ...(entry.extra || {}), ...(entry.call || {}), ...(entry.survey || {}) };
  const who = entry.actor && (entry.actor.name || entry.actor.id);
  switch (LATIN(entry.type)) {
    case "message.received": case "message.sent": return null;
    case "conversation.opened": return "Conversation opened";
    case "conversation.assigned": return `Assigned to ${data.to_agent || data.to_team || who || "an agent"}`;
    case "conversation.transferred": return `Transferred${data.to ? ` to ${data.to}` : ""}${data.reason ? `: ${data.reason}` : ""}`;
    case "conversation.escalated": return `Goes on by ${channelName(data.to_channel || entry.channel)}${data.from_channel ? `, from ${channelName(data.from_channel)}` : ""}`;
    case "conversation.pending": return `Waiting${data.waiting_on ? ` for ${data.waiting_on}` : ""}`;
    case "conversation.resolved": return `Resolved${who ? ` by ${who}` : ""}`;
    case "conversation.reopened": return "Reopened";
    case "conversation.merged": return "Two conversations became one";
    case "call.queued": return "Call waiting in the queue";
    case "call.answered": return `Call answered${who ? ` by ${who}` : ""}`;
    case "call.held": return `On hold${data.duration_s ? ` for ${duration(data.duration_s)}` : ""}`;
    case "call.abandoned": return "Hung up before anybody answered";
    case "call.overflowed": return "Sent to another queue";
    case "call.ended": return `Call ended${data.hold_s ? `, ${duration(data.hold_s)} on hold` : ""}`;
    case "callback.requested": return "Asked to be called back";
    case "callback.completed": return "Called back";
    case "ivr.ended": return `Voice menu: ${(data.outcome || "ended").replace("_", " ")}`;
    case "survey.sent": return "Survey sent";
    case "survey.answered": return `${(data.kind || data.metric || "Survey").toUpperCase()} ${data.score ?? ""}${Array.isArray(data.scale) ? ` of ${data.scale.at(-1)}` : ""}`;
    case "bot.answered": return "The bot answered";
    case "bot.handed_over": return "The bot handed over";
    case "selfservice.viewed": return `Read ${data.article || "a help page"}`;
    case "selfservice.deflected": return "Helped themselves";
    case "agent.context_viewed": return `${who || "An agent"} looked at ${(data.sections || ["the file"]).join(", ")}`;
    case "info.requested": return `Asked for ${(data.field || "information").replace("_", " ")}`;
    case "suggestion.offered": return "Answer suggested";
    case "suggestion.accepted": return "Suggested answer used";
    case "acknowledgement.sent": return "Receipt acknowledged";
    case "customer.identified": return `Recognised${entry.actor && entry.actor.type === "agent" ? ` by ${who}` : ""}`;
    case "customer.subscribed": return "May be written to";
    case "customer.unsubscribed": return "May no longer be written to";
    case "customer.entered": return "Came in";
    case "customer.left": return "Went out";
    case "customer.started": return "Became a customer";
    case "customer.churned": return `Left${data.reason ? `: ${data.reason}` : ""}`;
    case "customer.merged": return "Two customers were found to be one";
    case "customer.unmerged": return "Was found to be somebody else";
    case "remedy.chosen": return `Chose a ${data.kind || "remedy"}`;
    default: return LATIN(entry.type).replaceAll(".", " ").replaceAll("_", " ");
  }
}

/** Whether an event is worth a line when only the story is wanted. */
export function isStory(entry) {
  return !/\.(context_viewed|opened|assigned|queued|requested|offered|accepted|acknowledgement\.sent)$|acknowledgement|bot\.answered|info\.requested/.test(entry.type);
}
