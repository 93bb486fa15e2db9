"""The Chinese pages: the same commands as in the English ones, and links between the two."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "README.zh-CN.md",
    "docs/own-data.md": "docs/zh/own-data.md",
    "docs/training.md": "docs/zh/training.md",
    "docs/parity.md": "docs/zh/parity.md",
}


def commands(text):
    """The lines of a page that are indented by four spaces, without comments."""
    lines = re.findall(r"^    (\S.*)$", text, re.M)
    return [re.sub(r"\s+# .*", "", line) for line in lines]


@pytest.mark.parametrize(("english", "chinese"), PAGES.items())
def test_both_pages_show_the_same_commands(english, chinese):
    ours, theirs = (commands((ROOT / p).read_text(encoding="utf-8")) for p in (english, chinese))
    assert ours and theirs == ours


@pytest.mark.parametrize(
    ("english", "chinese"), [*PAGES.items(), ("docs/metrics.md", "docs/zh/metrics.md")]
)
def test_the_pages_are_linked_and_their_links_lead_somewhere(english, chinese):
    for page in (english, chinese):
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
        files = {(path.parent / link).resolve() for link in links if link and "://" not in link}
        assert all(file.exists() for file in files), page
        if page == chinese:
            assert (ROOT / english).resolve() in files


def test_both_readmes_have_the_same_sections():
    ours, theirs = (
        (ROOT / page).read_text(encoding="utf-8").count("\n## ")
        for page in ("README.md", "README.zh-CN.md")
    )
    assert ours == theirs
