"""What a vision-language model is asked: a prompt for each task, and what goes around it.

FILM's paragraphs came from captions, dense captions and regions of the image that ChatGPT made one
paragraph of; neither its prompt nor its generator was published. These prompts are our own: one model
sees both images and writes the paragraph.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

WORDS = (50, 76)  # that a paragraph is asked to have


@dataclass(frozen=True)
class Images:
    """The two images of a task: what they are called, and what each of them can show better."""

    a: str
    b: str
    better: str


IMAGES = {
    "IVF": Images(
        "the infrared image",
        "the visible image",
        "warm people, animals and engines, or shapes that darkness, glare, smoke or haze hides, in the "
        "infrared image; colors, lettering, lamps and texture in the visible image",
    ),
    "MIF": Images(
        "the MRI image",
        "the CT, PET or SPECT image",
        "soft tissue, folds and outlines in the MRI image; bone, or the colors of strong and weak uptake, "
        "in the other image. Describe what can be seen and make no diagnosis",
    ),
    "MEF": Images(
        "the over-exposed image",
        "the under-exposed image",
        "detail in the shadows in the over-exposed image; detail in lamps, windows, sky and other bright "
        "areas in the under-exposed image",
    ),
    "MFF": Images(
        "the image focused on what is near",
        "the image focused on what is far",
        "what is sharp in the first image and blurred in the second; what is sharp in the second image and "
        "blurred in the first",
    ),
    "NIR": Images(
        "the near-infrared image",
        "the visible image",
        "bright vegetation, distant hills through haze, and texture in the near-infrared image; colors, "
        "lettering and painted surfaces in the visible image",
    ),
    "PIF": Images(
        "the image of the degree of linear polarization",
        "the image of the intensity",
        "glass, water, painted metal and other smooth surfaces and edges in the polarization image; "
        "brightness, shading and texture in the intensity image",
    ),
}


def default_prompt(task: str) -> str:
    """The prompt for the pairs of a task: a paragraph on the scene, its targets, and each image."""
    images = IMAGES[task]
    return (
        f"You see two aligned images of one scene: first {images.a}, then {images.b}. Write one paragraph "
        f"about them in plain English, of {WORDS[0]} to {WORDS[1]} words. First say what the scene is. Then "
        "name the salient targets with their color, and with their position in words (at the left, in the "
        f"center, in the background). Then say what each image shows better: {images.better}. Name only what "
        "you see in these images. Use no numbers, coordinates, lists, headings, Markdown or line breaks, "
        "and no introduction. Answer with the paragraph alone."
    )


def labels(task: str) -> tuple[str, str]:
    """The lines that stand before the two images."""
    images = IMAGES[task]
    return f"First image, {images.a}:", f"Second image, {images.b}:"


def single_prompt(task: str, side: int, prompt: str) -> str:
    """For a server that takes one image: asks for notes on the first (0) or the second (1) image."""
    images = IMAGES[task]
    which, name = (("first", images.a), ("second", images.b))[side]
    return (
        f"You see {name}, the {which} of two aligned images of one scene. Describe it in at most 60 words "
        "of plain English: the scene, the targets with color and position in words, and what can be made "
        "out well or badly in it. Your words will be joined with those about the other image for this "
        f"task:\n\n{prompt}\n\nFor now describe this image alone."
    )


def join_prompt(task: str, notes: tuple[str, str], prompt: str) -> str:
    """Asks for the paragraph from the notes on the two images."""
    images = IMAGES[task]
    return (
        f"{prompt}\n\nYou cannot see the images now; these are notes on them.\nNotes on {images.a}: "
        f"{notes[0]}\nNotes on {images.b}: {notes[1]}"
    )


def repair_prompt(answer: str, faults: list[str]) -> str:
    """What is added to a request whose first answer was no good."""
    return (
        f"\n\nAn earlier answer could not be used: it {', and it '.join(faults)}. It began: "
        f"{answer[:300] or '(nothing)'!r}. Follow the instructions, and answer with the paragraph alone."
    )


def prompt_hash(prompt: str) -> str:
    """The SHA-256 of a prompt, which the record of a paragraph keeps."""
    return hashlib.sha256(prompt.encode()).hexdigest()
