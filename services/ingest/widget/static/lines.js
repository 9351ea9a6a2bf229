/** The lines of the chat: what the server has (its order and its times), then what is still on its way. */

export class Lines {
  constructor() {
    this.byId = new Map();
    this.changes = new Map();
  }

  /** Take a line of the stream. Returns whether it is new. */
  take(line) {
    if (line.type === "message.edited" || line.type === "message.deleted") {
      const known = this.changes.get(line.refers_to);
      if (!known || known.at <= line.at) this.changes.set(line.refers_to, line);
      return false;
    }
    const isNew = !this.byId.has(line.id);
    this.byId.set(line.id, { ...line, state: "seen" });
    return isNew;
  }

  /** Take a message of ours in its state on the way; what was seen already stays as it is. */
  note(message) {
    if (this.byId.get(message.id)?.state === "seen") return;
    this.byId.set(message.id, { ...message, from: "customer", attachments: [], message_id: message.id });
  }

  /** Forget what the server said: it says it again. */
  reset() {
    this.changes.clear();
    for (const [id, line] of this.byId) if (line.state === "seen") this.byId.delete(id);
  }

  /** All lines in order, with what became of them. */
  sorted() {
    return [...this.byId.values()].sort(compare).map((line) => {
      const change = line.message_id && this.changes.get(line.message_id);
      if (!change) return line;
      if (change.type === "message.deleted") return { ...line, text: null, attachments: [], removed: true };
      return { ...line, text: change.text, edited: true };
    });
  }
}

function compare(a, b) {
  const seen = Number(b.state === "seen") - Number(a.state === "seen");
  if (seen) return seen;
  if (a.state === "seen" && a.at !== b.at) return a.at < b.at ? -1 : 1;
  return (a.sequence ?? 0) - (b.sequence ?? 0) || (a.id < b.id ? -1 : 1);
}
