/**
 * Puts the chat into a website: <script src="https://…/widget.js" data-account="…" async></script>
 *
 * The chat itself lives in a frame of Threadline's own origin, so that the website's scripts and styles and the chat's
 * cannot reach each other; this script only makes the frame, and gives it the size that it asks for.
 */
(() => {
  "use strict";
  const script = document.currentScript || document.querySelector('script[data-account][src*="widget.js"]');
  if (!script || !script.dataset.account) {
    console.error("Threadline chat: the script tag has no data-account, the last part of the channel's webhook_path.");
    return;
  }
  const home = new URL(script.src).origin;
  const given = script.dataset;
  const dark = given.theme === "dark" || (given.theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
  const small = matchMedia("(max-width: 480px), (max-height: 480px)");
  const side = given.side === "left" ? "left" : "right";

  const options = new URLSearchParams({ theme: dark ? "dark" : "light", side });
  for (const name of ["title", "greeting", "color", "language", "user", "userHash"]) {
    if (given[name]) options.set(name, given[name]);
  }
  if (!options.has("language") && document.documentElement.lang) options.set("language", document.documentElement.lang);

  const frame = document.createElement("iframe");
  frame.title = given.title || "Chat";
  // In the fragment, which is not sent to any server and in no log.
  frame.src = `${home}/chat/${encodeURIComponent(given.account)}#${options}`;
  let open = false;

  function size() {
    const full = open && small.matches;
    Object.assign(frame.style, {
      position: "fixed", zIndex: "2147483000", border: "0", background: "transparent", colorScheme: dark ? "dark" : "light",
      bottom: full ? "0" : "12px", left: "auto", right: "auto", [side]: full ? "0" : "12px",
      width: full ? "100vw" : open ? "min(400px, 100vw)" : "84px",
      height: full ? "100dvh" : open ? "min(660px, calc(100dvh - 24px))" : "84px",
    });
  }

  // What the chat keeps over reloads, where the browser gives a frame no storage of its own.
  const place = `threadline.chat.${given.account}`;
  function kept() {
    try {
      return JSON.parse(localStorage.getItem(place)) || {};
    } catch {
      return {};
    }
  }
  // One value at a time, on what is there now: the website may be open in several tabs.
  function keep(key, value) {
    try {
      localStorage.setItem(place, JSON.stringify({ ...kept(), [key]: value }));
    } catch {
      /* then it lasts as long as the page */
    }
  }

  const tell = (said) => frame.contentWindow?.postMessage({ threadline: "chat", ...said }, home);
  addEventListener("message", (event) => {
    if (event.source !== frame.contentWindow || event.origin !== home || event.data?.threadline !== "chat") return;
    if (event.data.wants === "kept") tell({ kept: kept() });
    if (typeof event.data.keep === "string") keep(event.data.keep, event.data.value);
    if (typeof event.data.open !== "boolean") return;
    open = event.data.open;
    size();
  });
  small.addEventListener("change", size);
  size();

  window.ThreadlineChat = { open: () => tell({ open: true }), close: () => tell({ open: false }) };
  const put = () => document.body.append(frame);
  if (document.body) put();
  else addEventListener("DOMContentLoaded", put);
})();
