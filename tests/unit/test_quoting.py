"""split_reply: what was newly written, in many programs' and languages' ways of quoting."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.quoting import split_reply
from tests.conftest import needs

NEW = "It arrived broken.\n\nCan you send another?\n\n-- \nAnn\n+31 20 555 0100"

ATTRIBUTIONS = {
    "gmail_en": "On Tue, Jan 7, 2025 at 10:03 AM Acme Support <support@acme.example> wrote:",
    "gmail_wrapped": "On Tue, Jan 7, 2025 at 10:03 AM Acme Support With A Long Name\n<support@acme.example> wrote:",
    "gmail_broken_twice": "On Tue, Jan 7, 2025 at 10:03 AM, Acme Support\n<support@acme.example>\nwrote:",
    "gmail_broken_in_the_address": "On Tue, Jan 7, 2025 at 10:03 AM Acme Support <support@acme.example\n> wrote:",
    "gmail_no_broken_in_the_address": "tir. 7. jan. 2025 kl. 10:03 skrev Acme Support <support@acme.example\n>:",
    "apple_en": "On 7 Jan 2025, at 10:03, Acme Support <support@acme.example> wrote:",
    "thunderbird_en": "On 1/7/25 10:03, Acme Support wrote:",
    "name_first": "Acme Support <support@acme.example> wrote:",
    "gmail_de": "Am Di., 7. Jan. 2025 um 10:03 Uhr schrieb Acme Support <support@acme.example>:",
    "thunderbird_de": "Am 07.01.25 um 10:03 schrieb Acme Support:",
    "gmail_nl": "Op di 7 jan 2025 om 10:03 schreef Acme Support <support@acme.example>:",
    "apple_nl": "Op 7 jan. 2025, om 10:03 heeft Acme Support <support@acme.example> het volgende geschreven:",
    "gmail_fr": "Le mar. 7 janv. 2025 à 10:03, Acme Support <support@acme.example> a écrit :",
    "gmail_fr_nbsp": "Le mar. 7 janv. 2025 à 10:03, Acme Support <support@acme.example> a\nécrit\u00a0:",
    "gmail_es": "El mar, 7 ene 2025 a las 10:03, Acme Support (<support@acme.example>) escribió:",
    "gmail_it": "Il giorno mar 7 gen 2025 alle ore 10:03 Acme Support <support@acme.example> ha scritto:",
    "gmail_pt": "Em ter., 7 de jan. de 2025 às 10:03, Acme Support <support@acme.example> escreveu:",
    "gmail_pl": "wt., 7 sty 2025 o 10:03 Acme Support <support@acme.example> napisał(a):",
    "thunderbird_pl": "W dniu 7.01.2025 o 10:03, Acme Support pisze:",
    "gmail_cs": "út 7. 1. 2025 v 10:03 odesílatel Acme Support <support@acme.example> napsal:",
    "gmail_sv": "Den tis 7 jan. 2025 kl 10:03 skrev Acme Support <support@acme.example>:",
    "gmail_da": "Den tirs. 7. jan. 2025 kl. 10.03 skrev Acme Support <support@acme.example>:",
    "gmail_fi": "ti 7. tammik. 2025 klo 10.03 Acme Support <support@acme.example> kirjoitti:",
    "gmail_ro": "În mar., 7 ian. 2025 la 10:03, Acme Support <support@acme.example> a scris:",
    "gmail_hu": "Acme Support <support@acme.example> ezt írta (időpont: 2025. jan. 7., K, 10:03):",
    "gmail_ru": "вт, 7 янв. 2025 г. в 10:03, Acme Support <support@acme.example>:",
    "yandex_ru": "07.01.2025, 10:03, Acme Support <support@acme.example> написал(а):",
    "gmail_uk": "вт, 7 січ. 2025 р. о 10:03 Acme Support <support@acme.example> пише:",
    "gmail_tr": "Acme Support <support@acme.example>, 7 Oca 2025 Sal, 10:03 tarihinde şunu yazdı:",
    "gmail_ja": "2025年1月7日(火) 10:03 Acme Support <support@acme.example>:",
    "gmail_zh": "Acme Support <support@acme.example> 于2025年1月7日周二 10:03写道：",
    "gmail_ko": "2025년 1월 7일 (화) 오전 10:03, Acme Support <support@acme.example>님이 작성:",
    "quoting": "Quoting Acme Support <support@acme.example>:",
    "old_gmail": "2025/1/7 Acme Support <support@acme.example>",
}

BLOCKS = {
    "outlook_en": "From: Acme Support <support@acme.example>\nSent: Tuesday, January 7, 2025\nTo: Ann\nSubject: RE: x",
    "outlook_bold": "*From:* Acme Support\n*Sent:* Tuesday, January 7, 2025 10:03\n*To:* Ann\n*Subject:* RE: x",
    "outlook_rule": "________________________________\nFrom: Acme\nSent: Tuesday\nTo: Ann\nSubject: RE: x",
    "outlook_original": "-----Original Message-----\nFrom: Acme\nSent: Tuesday\nTo: Ann\nSubject: RE: x",
    "outlook_de": "Von: Acme Support\nGesendet: Dienstag, 7. Januar 2025 10:03\nAn: Ann\nBetreff: AW: x",
    "outlook_de_original": "-----Ursprüngliche Nachricht-----\nVon: Acme\nGesendet: Dienstag\nAn: Ann\nBetreff: x",
    "outlook_nl": "Van: Acme Support\nVerzonden: dinsdag 7 januari 2025 10:03\nAan: Ann\nOnderwerp: RE: x",
    "outlook_fr": "De : Acme Support\nEnvoyé : mardi 7 janvier 2025 10:03\nÀ : Ann\nObjet : RE: x",
    "outlook_es": "De: Acme Support\nEnviado el: martes, 7 de enero de 2025\nPara: Ann\nAsunto: RE: x",
    "laposte_fr": "Message du : 07/01/2025 10:03\nDe : Acme Support\nA : Ann\nCopie à :\nSujet : x",
    "outlook_it": "Da: Acme Support\nInviato: martedì 7 gennaio 2025\nA: Ann\nOggetto: R: x",
    "outlook_pl": "Od: Acme Support\nWysłano: wtorek, 7 stycznia 2025\nDo: Ann\nTemat: RE: x",
    "outlook_sv": "Från: Acme Support\nSkickat: den 7 januari 2025\nTill: Ann\nÄmne: SV: x",
    "outlook_ja": "差出人: Acme\n送信日時: 2025年1月7日 10:03\n宛先: Ann\n件名: RE: x",
    "outlook_zh": "发件人: Acme\n发送时间: 2025年1月7日 10:03\n收件人: Ann\n主题: RE: x",
    "hotmail": "____________\nDate: Tue, 7 Jan 2025\nSubject: RE: x\nFrom: acme@acme.example\nTo: ann@x.example",
    "our_marker": "##- Please type your reply above this line -##",
    "zoho": "---- On Tue, 07 Jan 2025 10:03:00 +0100 Acme Support <support@acme.example> wrote ----",
    "zoho_bare_address": "---- On Tue, 07 Jan 2025 10:03:00 +0100 support@acme.example wrote ----",
    "without_colon": "On Tue, 7 Jan 2025 10:03:00 +0100 Acme Support <support@acme.example> wrote",
    "gmail_ru_without_marks": "вт, 7 янв. 2025 г. в 10:03, Acme Support <support@acme.example>:",
    "mailru": '07.01.2025, 10.03, "Acme - Support" <support@acme.example>:',
    "apple_without_marks": "On 7 Jan 2025, at 10:03, Acme Support <support@acme.example> wrote:",
}


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_text_above_a_marked_quote_is_the_reply(name: str) -> None:
    quote = f"{ATTRIBUTIONS[name]}\n\n> Hello Ann,\n>\n> Your parcel is on its way.\n>> Where is it?"
    assert split_reply(f"{NEW}\n\n{quote}\n") == (NEW, quote)


@pytest.mark.parametrize("name", BLOCKS)
def test_text_above_a_quoted_mail_without_marks_is_the_reply(name: str) -> None:
    quote = f"{BLOCKS[name]}\n\nHello Ann,\n\nYour parcel is on its way."
    assert split_reply(f"{NEW}\r\n\r\n{quote}") == (NEW, quote)


def test_reply_below_the_quote_keeps_its_signature() -> None:
    quote = "On 1/7/25 10:03, Acme wrote:\n> Where do you live?\n> Which colour?"
    assert split_reply(f"{quote}\n\n{NEW}") == (NEW, quote)


def test_answers_between_the_quotes_are_joined_by_one_blank_line() -> None:
    text = "On 1/7/25 10:03, Acme wrote:\n> Where do you live?\n\nIn Ede.\n\n> Which colour?\n\nBlue.\nThanks"
    new, quoted = split_reply(text)
    assert new == "In Ede.\n\nBlue.\nThanks"
    assert quoted == "On 1/7/25 10:03, Acme wrote:\n> Where do you live?\n> Which colour?"


@pytest.mark.parametrize(
    "marker",
    [
        "---------- Forwarded message ---------",
        "Begin forwarded message:",
        "-------- Weitergeleitete Nachricht --------",
        "---------- Doorgestuurd bericht ---------",
        "-------- Message transféré --------",
        "----- Messaggio inoltrato -----",
    ],
)
def test_forwarded_message_stays_whole_in_the_text(marker: str) -> None:
    text = (
        f"Please have a look.\n\n{marker}\nFrom: Bo <bo@x.example>\nDate: 7 Jan 2025\nSubject: x\nTo: Ann\n\nHi\n> old"
    )
    assert split_reply(text) == (text, "")


def test_outlook_forward_is_told_by_its_subject() -> None:
    text = f"Please have a look.\n\n{BLOCKS['outlook_en']}\n\nHi"
    assert split_reply(text, "FW: x") == (text, "")
    assert split_reply(text, "RE: x")[0] == "Please have a look."


def test_mail_that_begins_with_another_mails_headers_is_a_forward() -> None:
    text = f"{BLOCKS['outlook_en']}\n\nHi"
    assert split_reply(text) == (text, "")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Hello",
        "Last week your colleague wrote:\nwe will send it tomorrow.\nIt did not come.",
        "At 10:30 he said:\nno.",
        "From: Utrecht\nI would like to travel.",
        "To: whom it may concern\nDate: today\nI resign.",
        "Dear all\n\n-- \nAnn\nFrom: the desk of Ann",
        ">From here it is two hours by train.",
        "Costs:\n-----\n5 euro\n_____\n6 euro",
        "Sent from my iPhone",
        "On 7 Jan 2025 your colleague wrote\n\nthat it would come.",
        "This is the address that you wrote\n\nto: ann@x.example",
        "---- On Tuesday he wrote ----\n\nnothing.",
    ],
)
def test_ordinary_text_is_left_whole(text: str) -> None:
    assert split_reply(text) == (text, "")


DIALOGUES = Path(__file__).resolve().parents[3] / "shared" / "data" / "dialogues"


def _dialogue_replies() -> list[tuple[str, str]]:
    """Return (text as delivered, what was newly written) of every mail in the dialogues."""
    truth = json.loads((DIALOGUES / "truth.json").read_text("utf-8"))["events"]
    texts: dict[str, str] = {}
    for line in (DIALOGUES / "deliveries.jsonl").read_text("utf-8").splitlines():
        delivery = json.loads(line)
        if delivery["id"]:
            key = f"{delivery['tenant']}|{delivery['source']}|{delivery['id']}"
            if truth.get(key, {}).get("reply_text") is not None:
                texts.setdefault(key, json.loads(delivery["body"])["data"]["text"])
    return [(text, truth[key]["reply_text"]) for key, text in texts.items()]


@needs("shared_data")
def test_reply_texts_of_the_dialogues_are_found_exactly() -> None:
    dialogue_replies = _dialogue_replies()
    assert len(dialogue_replies) > 100
    wrong = [text for text, reply in dialogue_replies if split_reply(text)[0] != reply]
    assert wrong == []


LINES = ["> a", "On 12:00 x wrote:", "From: a", "To: b", "Sent: c", "", "word", ">From b",
         "-----Original Message-----", "-- ", "Begin forwarded message:"]  # fmt: skip


@given(st.lists(st.sampled_from(LINES), max_size=30))
@settings(max_examples=300)
def test_every_line_lands_on_exactly_one_side(lines: list[str]) -> None:
    new, quoted = split_reply("\n".join(lines))
    kept = sorted(line.strip() for line in f"{new}\n{quoted}".split("\n") if line.strip())
    assert kept == sorted(line.strip() for line in lines if line.strip())


@given(st.text(max_size=400))
def test_no_text_raises(text: str) -> None:
    split_reply(text)


CRAFTED = ["\n", ">\n", "On\n", "On:\n", "On wrote:\n", "From:\n", "From: a\nSent: b\n", ">", "a@", ":", "-----\n",
           "schrieb ", "2024-01-01 <a@", "reply ", ">From a\n", "On skrev " * 20 + "\n", "> \n\n", "wrote:\n\n", " ",
           "\u00a0", "On a@b 2024\n", "1" * 398 + ">\n> \n", "On 1:00 <a@b" * 30 + ">\n>\n", 
           "*", "-", "____\nFrom: a\n",
           "---- On 1:00 2024 a@b wrote ----\n", "On 2024 <a@b\n>:\n", "a <b@c\n>:\n", " wrote\n"]  # fmt: skip


@pytest.mark.parametrize("piece", CRAFTED)
def test_crafted_text_costs_what_its_length_costs(piece: str) -> None:
    """60 kB take under 100 ms and four times as much takes no more than about four times as long."""
    small, large = (_cost((piece * 240_000)[:size]) for size in (60_000, 240_000))
    assert small < 0.1
    assert large < max(8 * small, 0.1)


def _cost(text: str) -> float:
    """Return the CPU seconds of the best of three runs: other work on the machine must not fail the test."""

    def once() -> float:
        start = time.thread_time()
        split_reply(text)
        return time.thread_time() - start

    return min(once() for _ in range(3))
