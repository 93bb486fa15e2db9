"""What a model answers, and what of it can be used."""

from __future__ import annotations

import pytest

from jfusion.text.answers import Expected, broken, cleaned, faults
from tests.text.chat_server import PARAGRAPH

GERMAN = (
    "Eine Straße bei Nacht mit parkenden Autos; im Infrarotbild ist ein Fußgänger links deutlich zu sehen, "
    "während das sichtbare Bild die Farben der Schilder und die Lichter der Häuser zeigt."
)
EXPECTED = Expected(lambda text: len(text.split()), 80, 25)


def test_a_paragraph_in_plain_english_is_good():
    assert faults(cleaned(PARAGRAPH), "stop", EXPECTED) == []


@pytest.mark.parametrize(
    "answer",
    [
        f"<think>They want a paragraph.\n\nLet me see.</think>\n\n{PARAGRAPH}",
        f"They want a paragraph.</think>{PARAGRAPH}",
        f'"{PARAGRAPH}"',
        PARAGRAPH.replace(". ", ".\n"),
        f"  {PARAGRAPH}\n",
        PARAGRAPH.replace(" ", "\x00\x1b "),
    ],
)
def test_what_stands_around_a_paragraph_is_removed(answer):
    assert cleaned(answer) == PARAGRAPH


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("", "was empty"),
        (" ... ", "was empty"),
        ("<think>They want", "thoughts"),
        ("<think>They want</think>", "was empty"),
        ("I'm sorry, but I can't help with that.", "was a refusal"),
        ("I cannot view images.", "was a refusal"),
        ("As an AI language model, I have no eyes.", "was a refusal"),
        ("Unfortunately, the images are not there.", "was a refusal"),
        ("Please upload both images.", "was a refusal"),
        (f"**Scene.** {PARAGRAPH}", "Markdown"),
        (f"# A street\n{PARAGRAPH}", "Markdown"),
        (f"- {PARAGRAPH}\n- {PARAGRAPH}", "Markdown"),
        (f"1. {PARAGRAPH}", "Markdown"),
        (f"{PARAGRAPH}\n\n{PARAGRAPH}", "several paragraphs"),
        (f"Here is the paragraph: {PARAGRAPH}", "introduction"),
        (GERMAN, "not in English"),
        ("夜晚安静的街道，左侧停着一辆白色汽车，红外图像中行人清晰可见。", "not in English"),
        ("A street at night.", "4 words"),
        (f"{PARAGRAPH} {PARAGRAPH}", "tokens, more than the 80"),
    ],
)
def test_each_fault_is_named(answer, fault):
    (found,) = [f for f in faults(cleaned(answer), "stop", EXPECTED) if fault in f]
    assert found.split()[0] in ("was", "had", "began", "holds")


@pytest.mark.parametrize("finish", ["length", "content_filter", "refusal"])
def test_an_answer_that_was_not_finished_is_a_fault(finish):
    assert len(broken(PARAGRAPH, finish)) == 1


def test_half_a_character_can_be_written():
    assert cleaned("A street \ud83d at night.") == "A street ? at night."


def test_another_language_may_be_allowed():
    assert faults(cleaned(GERMAN), "stop", Expected(len, 500, 1, english=False)) == []
