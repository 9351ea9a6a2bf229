/** What the widget says, by language. */

const TEXTS = {
  en: {
    title: "Chat with us", greeting: "Hello! How can we help?", open: "Open the chat", close: "Close the chat",
    message: "Your message", send: "Send", you: "You", agent: "Support", bot: "Assistant", messages: "Messages",
    pending: "Sending", sent: "Sent", failed: "Not sent", again: "Try again", edited: "edited", removed: "Message removed",
    connecting: "Connecting", offline: "No connection. What you write is sent when you are back.",
    back: "You are back", unread: (count) => (count === 1 ? "1 new message" : `${count} new messages`), file: "Attachment",
  },
  nl: {
    title: "Chat met ons", greeting: "Hallo! Waarmee kunnen we helpen?", open: "Chat openen", close: "Chat sluiten",
    message: "Je bericht", send: "Verstuur", you: "Jij", agent: "Klantenservice", bot: "Assistent", messages: "Berichten",
    pending: "Wordt verstuurd", sent: "Verstuurd", failed: "Niet verstuurd", again: "Opnieuw", edited: "bewerkt",
    removed: "Bericht verwijderd", connecting: "Verbinden",
    offline: "Geen verbinding. Wat je schrijft gaat weg zodra die terug is.", back: "Je bent weer verbonden",
    unread: (count) => (count === 1 ? "1 nieuw bericht" : `${count} nieuwe berichten`), file: "Bijlage",
  },
};

/** The texts of a language such as `nl-BE`; English where there are none. */
export const textsOf = (language) => TEXTS[(language || "").slice(0, 2).toLowerCase()] || TEXTS.en;
