"""Whether the pixels of a JPEG are whole. Pillow's decoder fills what is damaged with gray, and says nothing."""

from __future__ import annotations

import re
from pathlib import Path

from jfusion.errors import unreadable

PADDING = 16  # bytes that cameras put between the last pixel and the marker of the end, at most
_DAMAGE = re.compile("Corrupt JPEG data: |Premature end of JPEG file")
_EXTRA = re.compile(r"(\d+) extraneous bytes before marker 0xd9")


def check(path: Path) -> None:
    """Raises UserError for a JPEG whose pixels end early or cannot be decoded; another file passes.

    libjpeg-turbo reads all of the pixels' data (at an eighth of the size, in a sixth of the time that the
    image takes), and its warnings about corrupt data count. What follows the image is not looked at, such as a
    second picture. JPEG has no checksum: a changed byte after which the codes fit again is not found.
    """
    with path.open("rb") as file:
        data = file.read() if file.read(3) == b"\xff\xd8\xff" else b""
    if not data:
        return
    import simplejpeg

    try:
        simplejpeg.decode_jpeg(b"\xff\xd8\xff" + data, "gray", min_height=1, min_width=1)
    except ValueError as error:
        reason = str(error).removeprefix("Corrupt JPEG data: ")
        extra = _EXTRA.match(reason)
        if _DAMAGE.match(str(error)) and not (extra and int(extra[1]) <= PADDING):
            raise unreadable("image", path, error) from error
