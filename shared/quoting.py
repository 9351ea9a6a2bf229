"""What was newly written in a mail, apart from what it quotes.

One pass over the lines, each looked at a bounded number of times, so the cost grows with the length of the text and
with nothing else, however crafted it is. The words of many mail programs and languages are in tables below.
Signatures and forwarded messages are the writer's and stay in the new part.
"""

from __future__ import annotations

import re

_LINE_LIMIT = 400
"""Characters of a line that are looked at; the rest of a longer line goes where its beginning goes."""

_WRAP = 4
"""Lines over which an attribution may be wrapped."""

_HEADER_SPAN = 9
"""Lines in which the headers of a quoted mail must stand together."""

# fmt: off
_STARTS = frozenset((
    "on", "on,", "at", "in", "am", "um", "op", "le", "el", "il", "em", "a", "w", "dne", "dňa", "den", "på", "în",
    "la", "pe", "de", "dnia", "v", "vào", "mon", "tue", "wed", "thu", "fri", "sat", "sun", "mon,", "tue,", "wed,",
    "thu,", "fri,", "sat,", "sun,", "pada", "data", "στις", "在", "于", "в",
))
# fmt: on
"""First words of an attribution that may be wrapped over several lines."""

# fmt: off
_VERBS_LAST = (
    "wrote", "writes", "said", "has written", "schrieb", "schreef", "geschreven", "geschrieben", "écrit", "ecrit",
    "escribió", "escribio", "ha scritto", "escreveu", "pisze", "napisał", "napisała", "napisał(a)", "napisal(a)",
    "napsal", "napsala", "napsal(a)", "skrev", "kirjoitti", "a scris", "írta", "написал", "написала", "написал(а)",
    "написал (а)", "пишет", "писал", "писала", "пише", "написав", "написала", "yazdı", "写道", "寫道", "写到",
    "のメール", "は書きました", "のメッセージ", "님이 작성", "작성", "đã viết", "έγραψε", "כתב", "כתבה", "كتب",
    "menulis", "va escriure", "har skrevet",
)
_VERBS_THEN_NAME = (
    " schrieb ", " schreef ", " skrev ", " geschreven door ", " wrote ", " écrit ", " escribió ", " escreveu ",
    " napisał ", " napisał(a) ", " написал ", " írta ",
)
# fmt: on
_QUOTING = re.compile(r"^(?:Quoting|Zitat von|Citando|Citace|Citerar|Cytowanie)\b.{1,200}[:：]\s*$", re.IGNORECASE)
_DATED = re.compile(r"\b\d{4}\b|\d年|\b\d{1,2}[-/.]\d{1,2}[-/.]\d{2}\b")
_TIMED = re.compile(r"\d{1,2}[:.h]\d{2}|\d年")
_TIMED_OR_DATED = re.compile(f"{_TIMED.pattern}|{_DATED.pattern}|\\d[-/.]\\d{{1,2}}[-/.]\\d")
_ADDRESS = re.compile(r"[^\s<>@]@[^\s<>@]")

_ORIGINAL = re.compile(
    r"^[-_=*#]{2,}\s*(?:original (?:message|appointment|mail|email)|reply message"
    r"|urspr(?:ü|ue)ngliche (?:nachricht|mail|e-mail)|originalnachricht|original-nachricht"
    r"|message d['’]origine|message original|message initial|oorspronkelijk bericht|origineel bericht"
    r"|mensaje original|messaggio originale|mensagem original|(?:wiadomość|wiadomosc) oryginalna|oryginalna wiadomość"
    r"|původní (?:zpráva|e-mail)|pôvodná správa|ursprungligt meddelande|originalmeddelande|opprinnelig melding"
    r"|oprindelig (?:meddelelse|besked)|alkuperäinen viesti|исходное сообщение|оригинальное сообщение"
    r"|orijinal (?:mesaj|ileti)|eredeti üzenet|mesaj original|mesajul original|元のメッセージ|原始邮件"
    r"|原始郵件|原始信件|원본 메시지|원본 메일)\s*[-_=*#]{2,}$",
    re.IGNORECASE,
)
_FORWARDED = re.compile(
    r"^(?:[-_=*#]{2,}\s*(?:forwarded (?:message|mail|email|by)|begin forwarded|weitergeleitete (?:nachricht|mail)"
    r"|message transféré|courriel transféré|doorgestuurd bericht|mensaje reenviado|messaggio inoltrato"
    r"|mensagem (?:encaminhada|reencaminhada)|(?:wiadomość|wiadomosc) przekazana|przekazana wiadomość"
    r"|přeposlaná zpráva|vidarebefordrat meddelande|videresendt (?:melding|meddelelse)|välitetty viesti"
    r"|пересылаемое сообщение|пересланное сообщение|iletilen (?:mesaj|ileti)|továbbított (?:üzenet|levél)"
    r"|mesaj redirecționat|転送|转发|轉寄|전달).{0,80}"
    r"|begin forwarded message:?|anfang der weitergeleiteten nachricht:?|début du message (?:transféré|réexpédié)\s?:?"
    r"|begin doorgestuurd bericht:?|inicio del mensaje reenviado:?|inizio messaggio inoltrato:?"
    r"|início da mensagem (?:encaminhada|reencaminhada):?|vidarebefordrat mejl:?|videresendt besked:?)$",
    re.IGNORECASE,
)
_ABOVE = re.compile(
    r"(?:reply|type|write|antwort\w*|antwoord\w*|répond\w*|respond\w*|rispond\w*) .{0,40}"
    r"(?:above this line|oberhalb dieser (?:linie|zeile)|über dieser (?:linie|zeile)|boven deze (?:lijn|regel)"
    r"|au-dessus de cette ligne|encima de esta línea|sopra questa riga)",
    re.IGNORECASE,
)
_DIVIDER = re.compile(r"^[-_=*—–]{5,}$")
_FORWARD_SUBJECT = re.compile(r"^\s*(?:fwd?|wg|tr|rv|i|enc|doorst|vb|vs|pd|vl|fs)\s*:", re.IGNORECASE)

_HEADER_WORDS = {
    "from": (
        "from von de van da od fra från lähettäjä от відправник kimden gönderen feladó expeditor remitente afzender"
        " expéditeur absender mittente 差出人 发件人 寄件者 보낸사람"
    ),
    "date": (
        "sent date gesendet datum envoyé verzonden enviado enviada fecha inviato data wysłano odesláno skickat sendt"
        " lähetetty päivämäärä отправлено дата gönderilen gönderildi tarih elküldve dátum trimis dato 送信日時 日時"
        " messagedu 发送时间 日期 寄件日期 보낸날짜 날짜"
    ),
    "to": (
        "to an à aan para a do komu till til vastaanottaja кому kime alıcı címzett către destinataire empfänger"
        " geadresseerde destinatario per cc kopie copie cópia 宛先 收件人 抄送 받는사람"
    ),
    "subject": (
        "subject betreff objet sujet onderwerp asunto oggetto assunto temat předmět predmet ämne emne aihe тема konu"
        " tárgy subiect 件名 主题 主旨 제목"
    ),
}
_HEADERS = {word: role for role, words in _HEADER_WORDS.items() for word in words.split()}


_ROLES = frozenset(_HEADER_WORDS)
_FIRST_ROLES = frozenset({"from", "date"})

_ENDS = frozenset({":", "：", ">", "-"})
_WITHOUT_COLON = (" wrote", " schrieb", " skrev", " a écrit", " ha scritto", " escribió", " escreveu")
_DASHES = "-—– "
_PADDING = " \t\u200b\u200e\u200f\ufeff*"


class _Text:
    """The lines of one text: as they are, as they read, and what each looks like (worked out once per wording)."""

    __slots__ = ("_kinds", "_says", "bare", "ends", "following", "quote", "raw")

    def __init__(self, text: str) -> None:
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        self.raw = text.split("\n")
        self.bare = [_bare(raw) if raw else "" for raw in self.raw]
        self.quote = [bare[:1] == ">" for bare in self.bare]
        self.ends = [bare[-1:] in _ENDS or bare.endswith(_WITHOUT_COLON) for bare in self.bare]
        self.following = _next_filled(self.bare)
        self._kinds: dict[str, str] = {}
        self._says: dict[str, str] = {}
        for at, is_quote in enumerate(self.quote):
            # Mail stores write a line that begins with "From " as ">From "; it is the writer's own unless it stands
            # between quoted lines.
            if is_quote and self.raw[at].startswith(">From "):
                before = at > 0 and self.quote[at - 1]
                self.quote[at] = before or (at + 1 < len(self.quote) and self.quote[at + 1])
            elif is_quote and at > 0 and _closes_address(self.bare[at - 1], self.bare[at]):
                # Wrapped within the address, an attribution goes on with the bracket.
                self.quote[at] = self.quote[at - 1]

    def __len__(self) -> int:
        return len(self.raw)

    def kind(self, at: int) -> str:
        """Return "forward", "original", the role of a mail header ("from", "date", "to", "subject"), or ""."""
        bare = self.bare[at]
        known = self._kinds.get(bare)
        if known is None:
            known = self._kinds[bare] = _kind(bare)
        return known

    def says(self, joined: str) -> str:
        """Return what `_says` tells of a possible attribution."""
        known = self._says.get(joined)
        if known is None:
            known = self._says[joined] = _says(joined)
        return known


def split_reply(text: str, subject: str | None = None) -> tuple[str, str]:
    """Return (what was newly written, what was quoted), each without surrounding blank lines.

    Every line of `text` is in exactly one of the two, in its order; attributions ("On … wrote:") go with the quote.
    `subject` tells a forward by a program that marks it nowhere else. Linear time in the length of `text`.
    """
    lines = _Text(text)
    marks = _marks(lines, forwarded=bool(subject and _FORWARD_SUBJECT.match(subject[:40])))
    return _gather(lines, marks)


def _bare(raw: str) -> str:
    head = raw[:_LINE_LIMIT]
    if not head.isascii():
        head = head.replace("\u00a0", " ").replace("\u202f", " ")
    return head.strip(_PADDING)


def _closes_address(above: str, bare: str) -> bool:
    return (
        len(bare) < 60
        and bare[-1] in _ENDS
        and "@" in above.rpartition("<")[2]
        and above.find(">", above.rfind("<")) < 0
    )


def _kind(bare: str) -> str:
    if _FORWARDED.match(bare):
        return "forward"
    if _ORIGINAL.match(bare) or (len(bare) < 120 and _ABOVE.search(bare)):
        return "original"
    colon = min((place for place in (bare.find(":", 0, 24), bare.find("：", 0, 24)) if place > 0), default=-1)
    return _HEADERS.get(bare[:colon].replace("*", "").replace(" ", "").lower(), "") if colon > 0 else ""


def _next_filled(bare: list[str]) -> list[int]:
    """Return for each line the index of the first line after it that is not blank (the number of lines for none)."""
    following = [len(bare)] * len(bare)
    nearest = len(bare)
    for at in range(len(bare) - 1, -1, -1):
        following[at] = nearest
        if bare[at]:
            nearest = at
    return following


def _marks(lines: _Text, forwarded: bool) -> list[bool]:
    """Return for each line whether it is quoted."""
    marks = list(lines.quote)
    written = False
    at = 0
    while at < len(lines):
        if not lines.bare[at] or marks[at]:
            at += 1
            continue
        kind = lines.kind(at)
        if kind == "forward":
            marks[at:] = [False] * (len(lines) - at)
            break
        if kind == "original" or (kind in _FIRST_ROLES and _is_header_block(lines, at)):
            # A mail that begins with another mail's headers, or says so in its subject, is a forward.
            if written and not forwarded:
                _mark(marks, _with_divider(lines, at), len(lines))
            break
        span = _attribution(lines, at)
        if span is None:
            written = True
            at += 1
            continue
        end, to_the_end = span
        _mark(marks, at, len(lines) if to_the_end and written else end)
        if to_the_end:
            break
        at = end
    return marks


def _attribution(lines: _Text, at: int) -> tuple[int, bool] | None:
    """Return (index after the attribution, whether all the rest is the quote), or None where `at` begins none."""
    if not any(lines.ends[at : at + _WRAP]):
        return None
    first = lines.bare[at]
    wrapped = _may_wrap(first)
    joined = first
    for end in range(at + 1, min(at + (_WRAP if wrapped else 1), len(lines)) + 1):
        if end > at + 1:
            following = lines.bare[end - 1]
            if lines.quote[end - 1] or not following:
                return None
            joined = f"{joined} {following}"
        if lines.ends[end - 1] and (says := lines.says(joined)):
            span = _extent(lines, end, joined, wrapped, says)
            if span is not None or says == "wrote":
                return span
    return None


def _may_wrap(first: str) -> bool:
    return first[:24].split(" ", 1)[0].lower() in _STARTS or first[:1].isdigit() or bool(_ADDRESS.search(first))


def _says(joined: str) -> str:
    """Return "wrote" where the words say that somebody wrote, "who" where they only give a date and an address."""
    if joined[-1] == "-" and not (joined.startswith("--") and joined.endswith("--")):
        return ""
    if joined[-1] != ">":
        tail = joined[-220:].rstrip(" :：" + _DASHES).lower()
        if tail.endswith(_VERBS_LAST) or any(verb in tail for verb in _VERBS_THEN_NAME) or _QUOTING.match(joined):
            return "wrote"
    before, _, address = joined[-320:].rstrip(" :：").rpartition("<")
    return "who" if address.endswith(">") and "@" in address and _TIMED_OR_DATED.search(before) else ""


def _extent(lines: _Text, end: int, joined: str, wrapped: bool, says: str) -> tuple[int, bool] | None:
    after = lines.following[end - 1]
    if after < len(lines) and lines.quote[after]:
        return after, False
    # Without quote marks below it, a sentence that ends with "wrote:" is an attribution only if it says who or on what
    # day, and when: "At 10:30 he wrote:" is a story.
    day = wrapped and bool(_DATED.search(joined))
    timed = bool(_TIMED.search(joined) and _ADDRESS.search(joined))
    if says == "wrote" and joined[-1] in ":：":
        return (end, True) if day or timed else None
    # What says it without a colon, or without a verb, must say all three: the day, the time and the address.
    return (end, True) if timed and _DATED.search(joined) and joined[-1] != ">" else None


def _is_header_block(lines: _Text, at: int) -> bool:
    first = lines.kind(at)
    roles = set()
    place = at
    while place < min(len(lines), at + 2 * _HEADER_SPAN):
        kind = lines.kind(place)
        if kind == first and place > at:
            # The next block answers for itself; so a text of nothing but "From:" costs no more than another.
            break
        roles.add(kind)
        place = lines.following[place]
    # A block that does not begin with the sender is one only if it is complete.
    return len(roles & _ROLES) >= (3 if first == "from" else 4)


def _with_divider(lines: _Text, at: int) -> int:
    """Return the index of the divider directly above `at`, or `at`."""
    above = at - 1
    while above > 0 and not lines.bare[above] and at - above <= 3:
        above -= 1
    return above if above >= 0 and _DIVIDER.match(lines.raw[above].strip()[:200]) else at


def _mark(marks: list[bool], start: int, end: int) -> None:
    marks[start:end] = [True] * (end - start)


def _gather(lines: _Text, marks: list[bool]) -> tuple[str, str]:
    new: list[str] = []
    old: list[str] = []
    cut = False
    for raw, is_quoted in zip(lines.raw, marks, strict=True):
        if is_quoted:
            old.append(raw)
            cut = True
        elif not cut:
            new.append(raw)
        elif raw.strip():
            # Where a quote was cut out, one blank line is left.
            while new and not new[-1].strip():
                new.pop()
            new += ("", raw)
            cut = False
    return "\n".join(new).strip(), "\n".join(old).strip()
