/** The ops page's course: sign in, show every KPI of the chosen span, refresh, and open one to see what it is made of. */

import { get } from "/pages/api.js";
import { $, h } from "/pages/dom.js";
import * as session from "/pages/session.js";
import { amount, movement } from "./format.js";
import { line } from "./graph.js";

const EVERY_MS = 4000;
const shown = new Map(); // id → {value, elements}
let chosen = { window: "7d", family: "" };
let busy = false;
let again = false;
let now = new Date();

async function main() {
  session.prepare("/ops");
  const saved = new URLSearchParams(location.search);
  if (saved.get("window")) chosen.window = saved.get("window");
  for (const button of document.querySelectorAll("[data-window]")) {
    button.addEventListener("click", () => choose({ window: button.dataset.window }));
  }
  $("family").addEventListener("change", () => choose({ family: $("family").value }));
  addEventListener("hashchange", async () => { await session.useKeyFromAddress(); await refresh(); });
  addEventListener("online", refresh);
  addEventListener("offline", () => say("away", "No connection"));
  await session.useKeyFromAddress();
  press();
  await refresh();
  setInterval(() => { if (!document.hidden && !$("sign-in").open) refresh(); }, EVERY_MS);
}

function choose(change) {
  chosen = { ...chosen, ...change };
  shown.clear();
  press();
  $("main").setAttribute("aria-busy", "true");
  refresh();
}

function press() {
  for (const button of document.querySelectorAll("[data-window]")) {
    button.setAttribute("aria-pressed", String(button.dataset.window === chosen.window));
  }
}

async function refresh() {
  if (busy) { again = true; return; }
  busy = true;
  again = false;
  try {
    const asked = new URLSearchParams({ window: chosen.window });
    if (chosen.family) asked.set("family", chosen.family);
    const data = await session.signedIn(() => get(`/ops/data?${asked}`));
    now = new Date(data.now);
    draw(data);
    say("live", `Live, ${now.toLocaleTimeString()}`);
  } catch (error) {
    say("away", shown.size ? `${error.message} The figures are those of ${now.toLocaleTimeString()}.` : error.message);
    if (!shown.size) $("main").replaceChildren(h("p", { class: "empty fault" }, `${error.message} This page goes on trying.`));
  } finally {
    busy = false;
  }
  if (again) refresh();
}

function draw(data) {
  const byId = new Map(data.kpis.map((kpi) => [kpi.id, kpi]));
  if (!shown.size) {
    const sections = Object.entries(data.families).map(([title, ids]) =>
      h("section", {}, h("h2", {}, title), h("ul", { class: "cards" }, ids.map((id) => h("li", {}, card(byId.get(id)))))));
    $("main").replaceChildren(...sections);
    $("main").removeAttribute("aria-busy");
  }
  for (const kpi of data.kpis) update(kpi);
}

function card(kpi) {
  const parts = { value: h("span", { class: "value" }), moved: h("span", { class: "moved" }), graph: h("span", {}), foot: h("span", { class: "foot" }) };
  const button = h("button", { class: "card", type: "button", title: kpi.meaning, "data-kpi": kpi.id, onclick: () => open(shown.get(kpi.id).kpi) },
    h("span", { class: "name" }, kpi.id.replaceAll("_", " ")), parts.value, h("span", {}, parts.moved, parts.graph), parts.foot);
  shown.set(kpi.id, { parts, button, value: undefined });
  return button;
}

function update(kpi) {
  const place = shown.get(kpi.id);
  if (!place) return;
  const { parts, button } = place;
  if (place.value !== undefined && place.value !== kpi.value) {
    button.classList.remove("changed");
    void button.offsetWidth; // begins the animation again
    button.classList.add("changed");
  }
  place.value = kpi.value;
  place.kpi = kpi;
  parts.value.textContent = amount(kpi, kpi.value);
  parts.value.classList.toggle("none", kpi.value === null);
  const moved = movement(kpi);
  parts.moved.textContent = moved.text;
  parts.moved.className = `moved ${moved.mood}`;
  parts.graph.replaceChildren(line(kpi.points));
  const pieces = [];
  if (kpi.p90 !== null && kpi.unit === "s") pieces.push(`p50 ${amount(kpi, kpi.p50)}, p90 ${amount(kpi, kpi.p90)}`);
  if (/\d/.test(kpi.benchmark ?? "")) pieces.push(`benchmark ${kpi.benchmark}`);
  if (kpi.provisional) pieces.push("provisional");
  parts.foot.textContent = pieces.join(" · ");
}

/** Show one KPI large: its definition, its line, its channels, and the first receipts. */
async function open(kpi) {
  $("detail-title").textContent = kpi.id.replaceAll("_", " ");
  const body = $("detail-body");
  const facts = [kpi.meaning, `Formula: ${kpi.formula}. Lands by: ${kpi.lands_by}. Version ${kpi.version}.`];
  body.replaceChildren(...facts.map((text) => h("p", {}, text)), line(kpi.points, "tall"));
  $("detail").showModal();
  const lengths = { "1h": 3600e3, "24h": 86400e3, "7d": 7 * 86400e3, "28d": 28 * 86400e3 };
  const end = now; // the service's clock, not this machine's
  const span = new URLSearchParams({ start: new Date(end - lengths[chosen.window]).toISOString(), end: end.toISOString() });
  if (chosen.family && kpi.dimensions.includes("family")) span.set("family", chosen.family);
  try {
    if (kpi.dimensions.includes("channel")) {
      const grouped = await get(`/v1/kpis/${kpi.id}?${span}&group_by=channel`);
      body.append(table(["channel", "value", "of"], grouped.points.map((point) =>
        [point.group.channel ?? "none", amount(kpi, point.value), count(point.denominator)])));
    }
    const receipts = await get(`/v1/kpis/${kpi.id}/receipts?${span}&limit=20`);
    body.append(h("p", { class: "quiet" }, receipts.receipts.length ? "The first of what it is made of:" : "Nothing in this span."));
    if (receipts.receipts.length) {
      body.append(table(["kind", "id", "events"], receipts.receipts.map((r) => [r.kind, r.id, r.event_ids.join(", ")])));
    }
  } catch (error) {
    body.append(h("p", { class: "fault" }, error.message));
  }
}

function count(number) {
  return number === null ? "" : number.toLocaleString(undefined, { maximumFractionDigits: 1 });
}

function table(heads, rows) {
  return h("table", {}, h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, String(cell)))))));
}

function say(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text;
}

main();
