/** How lines look. Text only ever becomes text nodes, so nothing that anybody wrote can run. */

const LINK = /\bhttps?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]]/g;

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) made.setAttribute(key, value);
  made.append(...children.filter((child) => child != null));
  return made;
}

function link(address, shown) {
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, shown);
}

function withLinks(text) {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(LINK)) {
    parts.push(text.slice(at, found.index), link(found[0], found[0]));
    at = found.index + found[0].length;
  }
  return [...parts, text.slice(at)];
}

function file(one, texts) {
  const name = one.name || texts.file;
  const safe = /^https?:\/\//i.test(one.url ?? "");
  return element("p", { class: "file" }, safe ? link(one.url, name) : name);
}

export class View {
  /** `again(id)` is called when somebody wants a failed message sent again. */
  constructor(list, texts, language, again) {
    this.list = list;
    this.texts = texts;
    this.again = again;
    this.time = new Intl.DateTimeFormat(language || undefined, { hour: "2-digit", minute: "2-digit" });
    this.made = new Map();
  }

  /** Show these lines. Only what changed is touched: a screen reader says new lines and no old ones. */
  show(lines) {
    const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
    const wanted = new Set();
    lines.forEach((line, index) => {
      const node = this.#node(line);
      wanted.add(node);
      if (this.list.children[index] !== node) this.list.insertBefore(node, this.list.children[index] ?? null);
    });
    for (const node of [...this.list.children]) if (!wanted.has(node)) node.remove();
    if (atEnd) this.toEnd();
  }

  toEnd() {
    this.list.scrollTop = this.list.scrollHeight;
  }

  #node(line) {
    const key = JSON.stringify([line.state, line.text, line.edited, line.removed, line.at, line.name, line.attachments]);
    const known = this.made.get(line.id);
    if (known?.key === key) return known.node;
    const content = this.#content(line);
    const node = known?.node ?? element("li", {});
    node.className = `line ${line.from === "customer" ? "mine" : "theirs"} ${line.state}`;
    node.dataset.id = line.id;
    node.replaceChildren(...content);
    this.made.set(line.id, { key, node });
    return node;
  }

  #content(line) {
    const texts = this.texts;
    const mine = line.from === "customer";
    const who = mine ? texts.you : line.name || (line.from === "agent" ? texts.agent : texts.bot);
    const said = line.removed
      ? element("p", { class: "text removed" }, texts.removed)
      : line.text && element("p", { class: "text" }, ...withLinks(line.text));
    return [
      element("p", { class: mine ? "who hidden" : "who" }, who),
      element("div", { class: "bubble" }, said || null, ...(line.attachments ?? []).map((one) => file(one, texts))),
      this.#foot(line),
    ];
  }

  #foot(line) {
    const texts = this.texts;
    const at = line.at ?? line.sent_at;
    const foot = element("p", { class: "foot" }, element("time", { datetime: at }, this.time.format(new Date(at))));
    if (line.edited) foot.append(` · ${texts.edited}`);
    if (line.from === "customer" && line.state !== "seen") foot.append(` · ${texts[line.state]}`);
    if (line.from === "customer" && line.state === "seen") foot.append(` · ${texts.sent}`);
    if (line.state === "failed") {
      const button = element("button", { type: "button", class: "again" }, texts.again);
      button.addEventListener("click", () => this.again(line.id));
      foot.append(" ", button);
    }
    return foot;
  }
}
