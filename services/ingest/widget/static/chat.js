/** The chat page: opens on demand, says what is written at once, sends it until it is taken, shows answers as they come. */

import { Lines } from "./lines.js";
import { Outbox } from "./outbox.js";
import { Session } from "./session.js";
import { Store } from "./store.js";
import { Stream } from "./stream.js";
import { textsOf } from "./texts.js";
import { View } from "./view.js";

const $ = (id) => document.getElementById(id);
const given = new URLSearchParams(location.hash.slice(1));
const language = given.get("language") || navigator.language;
const texts = textsOf(language);
const endpoint = document.body.dataset.endpoint;
const framed = window.parent !== window;
const user = given.get("user") && given.get("userHash") ? { id: given.get("user"), hash: given.get("userHash") } : null;

const store = await Store.open(document.body.dataset.account);
const session = new Session(endpoint, user, store);
const lines = new Lines();
const outbox = new Outbox((events) => session.post(events), store, (message) => {
  lines.note(message);
  show();
});
const view = new View($("lines"), texts, language, (id) => outbox.again(id));
let unread = 0;
let caughtUp = false;

const stream = new Stream(session, {
  line(line) {
    const isNew = lines.take(line);
    outbox.taken(line.id);
    if (isNew && caughtUp && line.from !== "customer" && $("panel").hidden) unread += 1;
    show();
  },
  reset() {
    lines.reset();
  },
  state(state) {
    caughtUp ||= state === "live";
    connection(state);
  },
});

function show() {
  view.show(lines.sorted());
  $("greeting").hidden = lines.byId.size > 0;
  $("unread").hidden = unread === 0;
  $("unread").textContent = unread > 9 ? "9+" : String(unread);
  $("launcher").setAttribute("aria-label", unread ? `${texts.open}: ${texts.unread(unread)}` : texts.open);
}

function connection(state) {
  const away = !navigator.onLine || (state === "connecting" && stream.tries > 1);
  $("connection").hidden = !away;
  $("connection").textContent = away ? texts.offline : "";
  document.body.dataset.connection = away ? "away" : state;
}

function setOpen(open) {
  $("panel").hidden = !open;
  $("launcher").hidden = open && framed;
  $("launcher").setAttribute("aria-expanded", String(open));
  if (framed) window.parent.postMessage({ threadline: "chat", open }, "*");
  if (!open) return;
  unread = 0;
  show();
  view.toEnd();
  $("text").focus();
  if (!stream.source) stream.open();
}

function send() {
  const text = $("text").value.trim();
  if (!text) return;
  $("text").value = "";
  grow();
  outbox.add(text);
  view.toEnd();
}

/** As high as what is written, up to five lines. */
function grow() {
  $("text").style.height = "auto";
  $("text").style.height = `${Math.min($("text").scrollHeight, 132)}px`;
}

/** Take the website's colour, and black or white on it, whichever can be read better. */
function paint(color) {
  if (!color || !CSS.supports("color", color)) return;
  const style = document.documentElement.style;
  style.setProperty("--accent", color);
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [red, green, blue] = [...canvas.getImageData(0, 0, 1, 1).data].map((part) => {
    const value = part / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  const light = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  style.setProperty("--on-accent", 1.05 / (light + 0.05) >= (light + 0.05) / 0.05 ? "#ffffff" : "#000000");
}

function dress() {
  document.documentElement.lang = language;
  document.documentElement.dataset.theme = given.get("theme") === "dark" ? "dark" : "light";
  document.documentElement.dataset.side = given.get("side") === "left" ? "left" : "right";
  document.body.classList.toggle("alone", !framed);
  paint(given.get("color"));
  $("title").textContent = given.get("title") || texts.title;
  $("greeting").textContent = given.get("greeting") || texts.greeting;
  $("close").setAttribute("aria-label", texts.close);
  $("send").setAttribute("aria-label", texts.send);
  $("text").setAttribute("placeholder", texts.message);
  $("text-label").textContent = texts.message;
  $("lines").setAttribute("aria-label", texts.messages);
}

$("launcher").addEventListener("click", () => setOpen(true));
$("close").addEventListener("click", () => {
  setOpen(false);
  $("launcher").focus();
});
$("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("text").addEventListener("input", grow);
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && framed && !$("panel").hidden) $("close").click();
});
addEventListener("online", () => {
  if (session.exists) stream.open();
  outbox.flush();
});
addEventListener("offline", () => stream.close());
addEventListener("message", (event) => {
  if (event.source !== window.parent || event.data?.threadline !== "chat") return;
  if (typeof event.data.open === "boolean") setOpen(event.data.open);
});

dress();
for (const message of outbox.waiting) lines.note(message);
outbox.flush();
show();
setOpen(!framed);
// Somebody who chatted before hears of an answer while the chat is closed; nobody else costs a connection.
if (framed && session.exists) stream.open();
