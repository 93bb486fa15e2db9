"""What a comparison refuses before either side runs."""

from __future__ import annotations

import pytest

from jfusion.errors import UserError
from jfusion.parity.session import check_size, reason


def test_sides_that_are_no_multiples_are_named():
    check_size("lfdt", (64, 80))
    with pytest.raises(UserError, match="multiples of 8, not 64x62; change --size"):
        check_size("lfdt", (64, 62))


def test_the_one_size_that_a_network_takes_is_named():
    check_size("film", (32, 40))
    check_size("fccf", (256, 256))
    with pytest.raises(UserError, match="of fccf takes images of 256x256 and no others, not 64x80"):
        check_size("fccf", (64, 80))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["Traceback", "ValueError: no", "Types of your inputs:"], "ValueError: no"),
        (["RuntimeError: [f 1] failed", "[Reason]: no such file", "["], "[Reason]: no such file"),
        (["give weights made with these"], "give weights made with these"),
        ([], ""),
    ],
)
def test_the_reason_of_a_failure_is_found(lines, said):
    assert reason(lines) == said
