"""Whether a model's answer is a paragraph that can be used."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from jfusion.errors import counted

ENGLISH = frozenset(
    [
        "the",
        "and",
        "with",
        "are",
        "from",
        "while",
        "which",
        "its",
        "behind",
        "of",
        "to",
        "by",
        "at",
        "is",
        "on",
        "image",
    ]
)
# The share of these words is 0.13 to 0.42 in the 628 paragraphs that were examined, and at most 0.04 in
# translations of one of them into five languages with Latin letters.
LEAST_ENGLISH = 0.08
_THOUGHT = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.S | re.I)
_TAG = re.compile(r"</?(think|thinking|reasoning)>|<\|", re.I)
_MARKDOWN = re.compile(
    r"^\s{0,3}(#{1,6}\s|[-*+•]\s|\d+[.)]\s|>\s|```|\|)|\*\*|__\w|`|\[[^\]]*\]\(|(?<!\w)\*\w[^*]*\w\*(?!\w)",
    re.M,
)
_REFUSAL = re.compile(
    r"^\W*((i'?m|i am|we'?re|we are) (so |very |really )?(sorry|afraid|unable|not able)|sorry\b|"
    r"(i|we) (can ?not|can't|can’t|could not|couldn't|do not|don't|don’t|won't|am not able|apologi[sz]e)\b|"
    r"(i'm|i’m) (sorry|unable|not able)|as an? (ai|language|text)|unfortunately,? (i|we|the images? (was|were|is|are)) |"
    r"(please|could you|can you) (provide|upload|share|attach)|no images? (was|were|is|are|has|have)\b|"
    r"i (see|notice) (no|that no)\b)",
    re.I,
)
_PREAMBLE = re.compile(
    r"^\W*(sure|certainly|of course|okay|here is|here's|here’s|below is|paragraph)\b[^.]{0,80}[:!]",
    re.I,
)


@dataclass(frozen=True)
class Expected:
    """What a paragraph must be.

    tokens, most_tokens: the encoder's tokenizer, and how many it takes; least_words: fewer are a fault;
    english: whether another language is one.
    """

    tokens: Callable[[str], int]
    most_tokens: int
    least_words: int = 1
    english: bool = True


def cleaned(answer: str) -> str:
    """An answer without control characters, thoughts, and quotes around it, its lines joined.

    An empty line stays, since it separates paragraphs.
    """
    plain = answer.encode("utf-8", "replace").decode()  # half a character becomes "?"
    plain = "".join(c if c.isprintable() or c in "\n\r\t" else " " for c in plain)
    text = _THOUGHT.sub("", plain)
    text = re.split(r"</think(?:ing)?>", text, flags=re.I)[
        -1
    ].strip()  # some templates open it themselves
    if len(text) > 1 and (text[0], text[-1]) in (('"', '"'), ("“", "”"), ("'", "'")):
        text = text[1:-1].strip()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    if _MARKDOWN.search("\n".join(lines)):
        return "\n".join(lines)
    return re.sub(r"(?<!\n)\n(?!\n)", " ", "\n".join(lines))


def broken(text: str, finish: str) -> list[str]:
    """The faults of any answer, to a question about one image too, as the verbs of a sentence."""
    if finish in ("content_filter", "refusal"):
        return ["was refused"]
    if _TAG.search(text):
        return ["holds thoughts or control tags in place of an answer"]
    if finish == "length":
        return ["was cut off at the server's limit of tokens"]
    if not re.search(r"\w", text):
        return ["was empty"]
    return ["was a refusal"] if _REFUSAL.search(text) else []


def faults(text: str, finish: str, expected: Expected) -> list[str]:
    """What is wrong with a cleaned answer as the paragraph of a pair; [] when nothing is."""
    found = broken(text, finish)
    if found:
        return found
    if _MARKDOWN.search(text):
        found.append("was written with Markdown")
    if "\n" in text:
        found.append("had several paragraphs or lines")
    if _PREAMBLE.search(text):
        found.append("began with an introduction")
    words = re.findall(r"\w+(?:['’]\w+)?", text)
    if expected.english and not _is_english(text):
        found.append("was not in English")
    elif len(words) < expected.least_words:
        found.append(f"had {len(words)} words, which are too few")
    count = expected.tokens(text)
    if count > expected.most_tokens:
        found.append(
            f"had {counted(count, 'token')}, more than the {expected.most_tokens} of the encoder"
        )
    return found


def _is_english(text: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    if sum(c.isascii() for c in letters) < 0.9 * len(letters):
        return False
    words = re.findall(r"[a-z]+", text.lower())
    return len(words) < 12 or sum(w in ENGLISH for w in words) >= LEAST_ENGLISH * len(words)
