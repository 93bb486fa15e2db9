"""Errors that a user can fix."""

from __future__ import annotations

import pytest

from jfusion.errors import counted, unreadable


def test_a_number_and_its_noun():
    assert [counted(n, "pair") for n in (0, 1, 2)] == ["0 pairs", "1 pair", "2 pairs"]
    assert [counted(n, "row", "+d") for n in (-1, 0, 9)] == ["-1 row", "+0 rows", "+9 rows"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file"), "it does not exist; correct its name"),
        (IsADirectoryError(21, "Is a directory"), "it is a folder; name a file"),
        (PermissionError(13, "Permission denied"), "Permission denied; see that it can be read"),
        (ValueError("bits not supported"), "bits not supported; save it anew with another program"),
        (KeyError(0), "it is truncated or damaged (KeyError); copy or download it again"),
        (
            OSError("Truncated File Read"),
            "damaged (Truncated File Read); copy or download it again",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason_and_a_remedy(tmp_path, error, said):
    path = tmp_path / "x.png"
    path.write_bytes(b"x")
    line = str(unreadable("image", path, error))
    assert line.startswith(f"image {path} cannot be read: ") and line.endswith(said)
    path.write_bytes(b"")
    if not isinstance(error, OSError) or not error.errno:
        assert str(unreadable("image", path, error)).endswith(
            "it is empty; copy or download it again"
        )
