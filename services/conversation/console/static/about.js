/** Who this is: handles, facts, what they said about us. */

import { h, icon } from "/pages/dom.js";
import * as say from "./format.js";

/** What stands in the right-hand column above the question why this is one person. */
export function about(customer, summary) {
  const shown = (customer.handles || []).filter((one) => one.kind !== "contact");
  const surveys = (summary.surveys || []).slice(-3).reverse();
  return [
    h("h2", {}, "Known as"),
    shown.length ? h("ul", { class: "handles" }, shown.map(handle)) : h("p", { class: "quiet" }, "No address yet: somebody on a website."),
    attributes(customer),
    h("h2", {}, "Now"),
    h("ul", { class: "facts" },
      h("li", {}, h("b", {}, String((customer.open_conversations || []).length)), (customer.open_conversations || []).length === 1 ? " open conversation" : " open conversations")),
    surveys.length > 0 && h("h2", {}, "Said about us"),
    surveys.length > 0 && h("ul", { class: "facts" }, surveys.map((one) => h("li", {},
      `${(one.kind || one.metric || "survey").toUpperCase()} ${one.score ?? ""}${Array.isArray(one.scale) ? ` of ${one.scale.at(-1)}` : ""}`,
      one.at && h("span", { class: "quiet" }, ` ${say.ago(one.at)}`), one.comment && h("q", {}, one.comment)))),
  ].filter(Boolean);
}

function handle(one) {
  return h("li", {},
    h("span", { class: "quiet" }, say.kindName(one.kind)),
    h("span", { class: "value" }, one.value.split(/(?<=@)/).flatMap((part) => [h("wbr"), part])),
    one.verified && h("span", { class: "verified", title: "verified" }, icon("check"), h("span", { class: "hidden" }, "verified")));
}

function attributes(customer) {
  const pairs = Object.entries(customer.attributes || {}).filter(([, value]) => typeof value !== "object");
  return pairs.length > 0 && h("dl", {}, pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));
}
