"""What customers, agents and bots of the simulation write, by topic and language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

TOPICS = ("delivery", "invoice", "refund", "account", "product", "cancellation")

OPENING: Mapping[str, Mapping[str, Sequence[str]]] = {
    "en": {
        "delivery": (
            "Hello, my parcel {order} should have been here {day}, and there is still no sign of it.",
            "The tracking of {order} has not moved since {day}. Where is it?",
            "Half of order {order} is missing from the box.",
        ),
        "invoice": (
            "I was charged twice for {order}.",
            "The invoice for {order} shows another amount than the shop did.",
            "Can you send the invoice of {order} to our bookkeeping again?",
        ),
        "refund": (
            "I sent {order} back {day} and have not seen my money.",
            "How long does a refund for {order} take?",
        ),
        "account": (
            "I cannot sign in any more, the page says that my password has expired.",
            "The code for signing in never arrives.",
        ),
        "product": (
            "The coffee machine from {order} leaks at the bottom.",
            "Does the charger of {order} work with 110 volts?",
            "The screen of {order} stays black since {day}.",
        ),
        "cancellation": (
            "I want to cancel {order}, is that still possible?",
            "Please end my subscription at the end of the month.",
        ),
    },
    "nl": {
        "delivery": (
            "Goedendag, mijn pakket {order} zou {day} komen, maar er is nog niets.",
            "De track & trace van {order} staat al dagen stil. Waar blijft het?",
        ),
        "invoice": (
            "Er is twee keer afgeschreven voor {order}.",
            "Op de factuur van {order} staat een ander bedrag dan in de winkel.",
        ),
        "refund": ("Ik heb {order} {day} teruggestuurd en nog geen geld gezien.",),
        "account": ("Ik kan niet meer inloggen, mijn wachtwoord zou verlopen zijn.",),
        "product": (
            "Het koffieapparaat van {order} lekt aan de onderkant.",
            "Het scherm van {order} blijft zwart.",
        ),
        "cancellation": ("Ik wil {order} annuleren, kan dat nog?", "Graag mijn abonnement opzeggen per einde maand."),
    },
}
MORE: Mapping[str, Sequence[str]] = {
    "en": (
        "Is anybody there?",
        "The number again: {order}.",
        "I have been waiting for a while now.",
        "I forgot to say: it was a present.",
    ),
    "nl": ("Is daar iemand?", "Het nummer nogmaals: {order}.", "Ik wacht nu al een tijdje."),
}
AGENT: Mapping[str, Sequence[str]] = {
    "en": (
        "Thank you for writing. I am looking into {order} for you.",
        "I see what went wrong with {order}; let me put that right.",
        "Sorry for the trouble. I have asked the warehouse about {order} and will come back to you.",
        "May I ask for your postcode, so that I can find the right order?",
    ),
    "nl": (
        "Dank voor uw bericht. Ik kijk {order} voor u na.",
        "Ik zie wat er met {order} misging; dat zet ik recht.",
        "Excuses voor het ongemak. Mag ik uw postcode?",
    ),
}
CUSTOMER: Mapping[str, Sequence[str]] = {
    "en": (
        "Yes, it is 1234 AB.",
        "Thanks, that would help.",
        "And when will I hear more?",
        "I said that on the chat already.",
    ),
    "nl": ("Ja, 1234 AB.", "Dank u, dat zou helpen.", "En wanneer hoor ik meer?", "Dat heb ik in de chat al gezegd."),
}
CLOSING: Mapping[str, Sequence[str]] = {
    "en": (
        "That is settled now. Have a good day!",
        "Done: you will get a confirmation by mail.",
        "Glad that I could help.",
    ),
    "nl": ("Dat is nu geregeld. Fijne dag!", "Gedaan: u krijgt een bevestiging per mail."),
}
AGAIN: Mapping[str, Sequence[str]] = {
    "en": ("It happened again with {order}.", "Sorry, but this is not solved: {order} is still not right."),
    "nl": ("Het is weer mis met {order}.", "Helaas is dit niet opgelost: {order} klopt nog niet."),
}
CONTINUED: Mapping[str, Sequence[str]] = {
    "en": (
        "As I said to your colleague: {order} is still open.",
        "Here I am again about {order}.",
        "Going on from before: any news on {order}?",
    ),
    "nl": (
        "Zoals ik uw collega al zei: {order} is nog open.",
        "Daar ben ik weer over {order}.",
        "Is er al nieuws over {order}?",
    ),
}
BOT: Mapping[str, Sequence[str]] = {
    "en": ("I am the assistant of the shop. I found an article that may help.", "Let me see what I know about that."),
    "nl": ("Ik ben de assistent van de winkel. Dit artikel kan helpen.", "Even kijken wat ik daarover weet."),
}
SUBJECT: Mapping[str, Mapping[str, str]] = {
    "en": {
        "delivery": "Where is my order {order}?",
        "invoice": "Question about an invoice",
        "refund": "Refund of {order}",
        "account": "Cannot sign in",
        "product": "Problem with {order}",
        "cancellation": "Cancellation",
    },
    "nl": {
        "delivery": "Waar is mijn bestelling {order}?",
        "invoice": "Vraag over een factuur",
        "refund": "Terugbetaling {order}",
        "account": "Inloggen lukt niet",
        "product": "Probleem met {order}",
        "cancellation": "Opzegging",
    },
}
COMMENT: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "en": (
        ("Had to tell it three times.", "Too slow."),
        ("Quick and friendly.", "They knew what I had said on the chat."),
    ),
    "nl": (
        ("Drie keer moeten uitleggen.", "Te traag."),
        ("Snel en vriendelijk.", "Ze wisten al wat ik in de chat zei."),
    ),
}
DAY: Mapping[str, Sequence[str]] = {
    "en": ("yesterday", "on Monday", "last week"),
    "nl": ("gisteren", "maandag", "vorige week"),
}
GIVEN = (
    "Ann", "Bo", "Cem", "Daan", "Elif", "Femke", "Guus", "Hana", "Ilse", "Joris", "Kaya", "Lotte", "Mihai", "Noor",
    "Oscar", "Petra", "Quinn", "Radu", "Sanne", "Tess", "Umar", "Vera", "Wout", "Xenia", "Yara", "Zoltan",
)  # fmt: skip
FAMILY = (
    "Aksoy", "Bakker", "Claes", "Dumitru", "Evers", "Fischer", "de Groot", "Hendriks", "Ionescu", "Jansen", "Koster",
    "Lambert", "Maas", "Novak", "Okafor", "Popescu", "Rossi", "Smit", "Tanaka", "Uyar", "Visser", "de Wit", "Yilmaz",
)  # fmt: skip


def opening(rng: Random, language: str, topic: str, order: str) -> str:
    """Return a first message about `topic`."""
    return rng.choice(OPENING[language][topic]).format(order=order, day=rng.choice(DAY[language]))


def one_of(rng: Random, texts: Mapping[str, Sequence[str]], language: str, order: str) -> str:
    """Return one line of `texts` in `language`."""
    return rng.choice(texts[language]).format(order=order)


def quoted(reply: str, before: str, language: str) -> str:
    """Return `reply` over the quoted mail that it answers, as mail programs write it."""
    head = "On the date above, Support wrote:" if language == "en" else "Support schreef op bovenstaande datum:"
    head = head.replace("the date above", "Mon, 2 Mar 2026 at 10:01").replace(
        "bovenstaande datum", "ma 2 mrt 2026 om 10:01"
    )
    lines = "\n".join("> " + line for line in before.splitlines())
    return f"{reply}\n\n{head}\n{lines}"
