"""Reading, writing and resizing images; color is in color.py."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import re
import threading
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from jfusion.config import setting
from jfusion.data import jpeg
from jfusion.data.color import is_color, jet, luma
from jfusion.data.depth import Range, RangePolicy, to_uint8, to_unit
from jfusion.errors import UserError, counted, missing, printable, unreadable
from jfusion.files import begins, mark_input, replacing

# Every command reads these formats, and Pillow is allowed no other: some of its readers start programs.
SUFFIXES = (
    *(
        ".png",
        ".jpg",
        ".jpeg",
        ".jfif",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".pgm",
        ".ppm",
        ".jp2",
    ),
)
_PILLOW = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
PNG_LEVEL = 3  # of compression: half the time of the usual 6, for a few percent more bytes
MAX_PIXELS = 200.0  # megapixels
# Magic number, width, height and maximum value of a PGM or PPM; one white space ends the header.
_NETPBM = re.compile(
    rb"P([2356])@(\d{1,9})@(\d{1,9})@(\d{1,9})(?:#[^\r\n]*)?\s".replace(
        b"@", rb"(?:\s|#[^\r\n]*[\r\n])+"
    )
)


def range_setting() -> str:
    """The option `range` of every command that reads images."""
    return setting(
        "auto",
        "values of 16-bit and floating-point images that become black and white: auto (one range for a "
        "whole folder), full, LOW:HIGH or 'percentile P'; docs/images.md",
        "RANGE",
    )


def max_pixels_setting() -> float:
    """The option `max_pixels` of every command that reads images."""
    return setting(MAX_PIXELS, "refuse images of more megapixels", "MEGAPIXELS")


def is_image_name(path: Path) -> bool:
    """Whether a file's name is that of an image: a known ending in any case, and no dot in front."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


class Reader:
    """Reads the images of one data set by one policy; prints each kind of note once.

    value_range, max_pixels: the options of the command. fixed: the ranges of some sides ("a", "b", ...),
    as a run or a file recorded them; they win over `auto`.
    """

    def __init__(
        self,
        value_range: str = "auto",
        max_pixels: float = MAX_PIXELS,
        fixed: Mapping[str, Range | None] | None = None,
    ):
        self.policy = RangePolicy.parse(value_range)
        if not max_pixels > 0:
            raise UserError(f"--max-pixels must be above 0, not {max_pixels:g}")
        self.most = max_pixels * 1e6
        self.ranges: dict[str, Range | None] = {}
        self._noted: set[str] = set()
        self._lock = threading.Lock()
        self.fix(fixed or {})

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs of it; a lock stays in its own process."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock())

    def fix(self, ranges: Mapping[str, Range | None]) -> None:
        """The ranges of some sides, as a run or a file recorded them; they win over `auto`."""
        if self.policy.kind == "auto":
            self.ranges |= {side: r for side, r in ranges.items() if r is not None}

    def prepare(self, paths: Iterable[str | Path], side: str) -> Range | None:
        """Chooses one range for all images of a side of the data set, and notes it.

        Only the images deeper than 8 bits are decoded for it. A file that cannot be read is left for
        `rgb` to refuse. From here on no output replaces any of them.
        """
        paths = list(paths)
        for path in paths:
            mark_input(path)
        if side not in self.ranges:
            self.ranges[side] = self.policy.resolve(
                self._deep_images(paths), lambda text: self.note(f"images {side}: {text}")
            )
        chosen = self.ranges[side]
        if chosen is not None and chosen not in ((0, 1), (0, 255), (0, 65535)):
            self.note(f"images {side}: values {chosen} become black to white (--range)")
        return chosen

    def _deep_images(self, paths: Iterable[str | Path]) -> Iterator[np.ndarray]:
        for path in paths:
            with contextlib.suppress(UserError):
                if is_deep(path):
                    yield self._decoded(Path(path))

    def rgb(self, path: str | Path, side: str = "") -> np.ndarray:
        """An image file as RGB, (H, W, 3) uint8.

        A gray image becomes three equal channels; alpha is dropped; a palette is looked up; an EXIF
        rotation is applied (as OpenCV does when it reads color); of several frames or pages the first is
        read, with a note. side: the one given to `prepare`; without one, a deep image has its own range.
        Raises UserError for a file that is missing, no image of a known format, too large, or has values
        that are not finite.
        """
        pixels = self.levels(path, side)
        return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels

    def levels(self, path: str | Path, side: str = "") -> np.ndarray:
        """As `rgb`, but a file of one channel stays (H, W) uint8: some evaluators ask which it is."""
        pixels = self._decoded(Path(path))
        chosen = self.ranges.get(side)
        if pixels.dtype != np.uint8 and chosen is None:
            chosen = self.policy.resolve([pixels])
        return to_uint8(pixels, chosen)

    def gray(self, path: str | Path, side: str = "") -> np.ndarray:
        """The luma of an image file with all its bits, (H, W) float32 in [0, 1]; otherwise as `rgb`."""
        pixels = self._decoded(Path(path))
        chosen = self.ranges.get(side)
        if pixels.dtype != np.uint8 and chosen is None:
            chosen = self.policy.resolve([pixels])
        unit = to_unit(pixels, chosen)
        return luma(unit) if unit.ndim == 3 else unit

    def pair(
        self, a: str | Path, b: str | Path, pseudo_color: str = "none", background: str = "jet"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Two images as `rgb` returns them, of the sides "a" and "b"; UserError unless they have one size.

        pseudo_color: "a" or "b", which must be gray, gets the colors of `color.jet` on this `background`;
        "none": neither.
        """
        if pseudo_color not in ("none", "a", "b"):
            raise UserError(f"pseudo_color must be one of none, a, b, not {pseudo_color!r}")
        images = [self.rgb(a, "a"), self.rgb(b, "b")]
        if pseudo_color != "none":
            i = "ab".index(pseudo_color)
            images[i] = pseudo_colored(images[i], (a, b)[i], background)
        sizes = ["x".join(map(str, x.shape[:2])) for x in images]
        if sizes[0] != sizes[1]:
            raise UserError(f"{a} is {sizes[0]} and {b} is {sizes[1]}; both must have one size")
        return images[0], images[1]

    def _decoded(self, path: Path) -> np.ndarray:
        """The pixels as they are stored: (H, W) or (H, W, 3) of uint8, another integer, or floating point."""
        mark_input(path)
        with _one_line(path):
            pixels, frames = (_deep_reader(path) or _pillow)(path, self.most)
            jpeg.check(path)
        if frames > 1:
            self.note(f"{path.name} holds {frames} images; the first is used")
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise UserError(
                f"image {path} has values that are not finite (NaN, infinity); write numbers in their place"
            )
        first = pixels[0, 0]
        if (pixels[0] == first).all() and (pixels == first).all():  # mostly a look at one row
            value = printable(first.tolist())
            self.note(f"{printable(path, 4000)} holds one value in all of its pixels, {value}")
        return pixels

    def note_same(self, a: str | Path, b: str | Path, *images: np.ndarray) -> None:
        """A note where the two images of a pair, (H, W, 3) uint8 of the files `a` and `b`, are equal."""
        if np.array_equal(*(x[:1] for x in images)) and np.array_equal(*images):
            files = " and ".join(printable(path, 4000) for path in (a, b))
            self.note(f"{files} hold the same pixels; is one of them the wrong file?", "same")

    def note(self, text: str, kind: str = "") -> None:
        """Prints a note, unless one of its kind was printed; also from several threads."""
        kind = kind or text.partition(" holds ")[2] or text
        with self._lock:
            if kind not in self._noted:
                self._noted.add(kind)
                print(f"note: {text}")


def read_rgb(path: str | Path) -> np.ndarray:
    """One image file as RGB, (H, W, 3) uint8, by the default policy: see `Reader.rgb`."""
    return Reader().rgb(path)


def pseudo_colored(rgb: np.ndarray, what: str | Path, background: str = "jet") -> np.ndarray:
    """A gray image (H, W, 3) uint8 in the colors of `color.jet`. Raises UserError for one in color.

    what: how the error names the image, such as its path.
    """
    if is_color(rgb):
        raise UserError(f"{what} is in color; pseudo-colors are for gray images")
    return jet(rgb[..., 0], background)


class Header(NamedTuple):
    """What a file says about its first image: its size in pixels as it is shown, its bits, its channels.

    bits: 8, 16 or 32 per value; 32 also stands for floating point. channels: 1 for gray, 3 for color
    (alpha is not counted, and a palette is color).
    """

    height: int
    width: int
    bits: int
    channels: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width} {self.bits} bit {'gray' if self.channels == 1 else 'color'}"


def header(path: str | Path, most: float = MAX_PIXELS * 1e6) -> Header:
    """The header of an image file. Of a PNG all checksums are checked, of a JPEG that its data are whole.

    most: as many pixels at most. Raises UserError for a file that is missing, no image, or too large.
    """
    path = Path(path)
    mark_input(path)
    with _one_line(path):
        if _is_deep_tiff(path):
            found = _tiff_header(path)
        elif netpbm := _deep_netpbm_header(path):
            found = Header(int(netpbm[3]), int(netpbm[2]), 16, 3 if netpbm[1] in b"36" else 1)
        else:
            found = _pillow_header(path)
    _check_size(path, found.width, found.height, most)
    with _one_line(path):
        jpeg.check(path)
    return found


def _tiff_header(path: Path) -> Header:
    tifffile = _tifffile()
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        channels = 3 if page.samplesperpixel > 2 else 1
        return Header(page.imagelength, page.imagewidth, page.bitspersample, channels)


def _pillow_header(path: Path) -> Header:
    with _opened(path) as image:
        size = image.size
        # A PNG has its orientation in front of the pixels, or Pillow would have to decode them.
        rotated = (image.format != "PNG" or "exif" in image.info) and image.getexif().get(
            274, 1
        ) > 4
        width, height = reversed(size) if rotated else size
        deep_png = _is_deep_png(path)
        bits = 16 if deep_png or ";16" in image.mode else 32 if image.mode[0] in "IF" else 8
        gray = image.mode in ("1", "L", "LA") or image.mode[0] in "IF"
        if image.format == "PNG":
            bits = 16 if image.mode == "I" else bits
            image.verify()
        return Header(height, width, bits, 1 if gray else 3)


def is_deep(path: str | Path) -> bool:
    """Whether a file holds an image of more than 8 bits; UserError when it cannot be read."""
    path = Path(path)
    with _one_line(path):
        if _deep_reader(path):
            return True
        with _opened(path) as image:
            return image.mode.startswith(("I", "F"))


def size_of(path: str | Path) -> tuple[int, int]:
    """Width and height that a file's header states; UserError when it cannot be read."""
    path = Path(path)
    with _one_line(path), _opened(path) as image:
        return image.size


def pixels_of(path: str | Path) -> int:
    """The number of pixels that a file's header states; UserError when it cannot be read."""
    width, height = size_of(path)
    return width * height


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns what libraries raise for a file into one UserError, and keeps their warnings to themselves."""
    if not path.is_file():
        raise missing("image", path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        if "cannot identify" in str(error) and path.stat().st_size and not begins(path, "image"):
            known = ", ".join(s[1:] for s in SUFFIXES)
            raise UserError(
                f"image {path} cannot be read: it is none of {known}; save it as one of them"
            ) from error
        raise unreadable("image", path, error) from error


def _opened(path: Path | io.BytesIO) -> Any:
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # `_check_size` says it with a remedy
    image = Image.open(path, formats=_PILLOW)
    if image.format == "TIFF":
        _silence_libtiff()
    if image.format == "JPEG2000" and isinstance(path, Path):
        _check_jpeg2000(path)
    return image


@functools.cache
def _silence_libtiff() -> None:
    """Keeps off stderr what Pillow's libtiff prints about a damaged file; Pillow raises the same error."""
    with contextlib.suppress(OSError, StopIteration):  # not Linux, or a Pillow without libtiff
        lines = Path("/proc/self/maps").read_text().splitlines()
        library = ctypes.CDLL(next(x.split()[-1] for x in lines if "/libtiff" in x))
        for name in ("TIFFSetErrorHandler", "TIFFSetErrorHandlerExt"):
            handler = getattr(library, name)
            handler.restype = ctypes.c_void_p
            handler(None)


def _check_jpeg2000(path: Path) -> None:
    """Raises UserError for a JPEG 2000 of which Pillow would keep fewer bits than it has."""
    bits = [precision for precision, _ in _jpeg2000_channels(path)]
    most = 16 if len(bits) == 1 else 8
    if max(bits, default=8) > most:
        kind = "gray" if len(bits) == 1 else "color"
        raise UserError(
            f"image {path} is a JPEG 2000 in {kind} of {max(bits)} bits, of which {most} can be read; save it "
            "as PNG or TIFF of 16 bits"
        )


def _jpeg2000_channels(path: Path) -> list[tuple[int, bool]]:
    """The bits and the sign of each channel, by the marker SIZ (ISO/IEC 15444-1, A.5.1); [] without one."""
    with path.open("rb") as file:
        head = file.read(1 << 20)
    start = head.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(head) < start + 42:
        return []
    count = int.from_bytes(head[start + 40 : start + 42], "big")
    sizes = head[start + 42 : start + 42 + 3 * count : 3]
    return [((size & 127) + 1, size > 127) for size in sizes]


def _tifffile() -> ModuleType:
    """The module tifffile, which logs what is odd in a file: what matters of it is raised."""
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    return tifffile


def _check_size(path: Path, width: int, height: int, most: float) -> None:
    if width * height > most:
        raise UserError(
            f"image {path} has {width * height / 1e6:.3g} megapixels, more than --max-pixels {most / 1e6:g}"
        )


def _pillow(path: Path, most: float) -> tuple[np.ndarray, int]:
    """The pixels of the first image, and the number of images."""
    from PIL import ImageOps

    with _opened(path) as image:
        _check_size(path, *image.size, most)
        kind = image.format
        frames = 1 if kind == "JPEG" else getattr(image, "n_frames", 1)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("F"):
            return np.asarray(image, np.float32), frames
        if image.mode.startswith("I"):
            pixels = np.asarray(image)
            if kind == "JPEG2000":
                return _as_stored(pixels, path), frames
            return pixels if image.mode != "I" else _narrowed(pixels), frames
        image = image.convert("L") if image.mode in ("1", "L", "LA") else image.convert("RGB")
        return np.asarray(image), frames


def _as_stored(pixels: np.ndarray, path: Path) -> np.ndarray:
    """The values of a gray JPEG 2000, which Pillow shifts to 16 bits without a sign."""
    ((bits, signed),) = _jpeg2000_channels(path)
    values = pixels.astype(np.int32) >> (16 - bits)
    return (values - (1 << (bits - 1))).astype(np.int16) if signed else values.astype(np.uint16)


def _narrowed(pixels: np.ndarray) -> np.ndarray:
    """Pillow's 32-bit integers as the 16 bits that files of this kind hold, where the values fit."""
    fits = pixels.min() >= 0 and pixels.max() <= 65535
    return pixels.astype(np.uint16) if fits else pixels


def _deep_reader(path: Path) -> Callable[[Path, float], tuple[np.ndarray, int]] | None:
    """The reader of a file whose values Pillow would change; None where Pillow reads it right."""
    if _is_deep_tiff(path):
        return _tiff
    if _is_deep_png(path):
        return _deep_png
    return _deep_netpbm if _deep_netpbm_header(path) else None


def _is_deep_png(path: Path) -> bool:
    """Whether a file is a PNG of 16 bits with several channels, of which Pillow keeps 8 bits."""
    with path.open("rb") as file:
        head = file.read(26)
    return head.startswith(b"\x89PNG\r\n\x1a\n") and head[24:] in (b"\x10\2", b"\x10\4", b"\x10\6")


def _deep_png(path: Path, most: float) -> tuple[np.ndarray, int]:
    """All 16 bits of the first image, without alpha, and the number of images.

    Pillow decodes the file twice: as numbers whose high byte comes first, and as numbers whose low byte
    does. It keeps the high byte, so the second time that is the file's low one. Pillow does not do
    this for gray and alpha; their four bytes are read as the four channels of an RGBA file of 8 bits.
    """
    from PIL import ImageOps

    data = bytearray(path.read_bytes())
    gray = data[25] == 4
    if gray:
        data[24:26] = 8, 6
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    halves, frames = [], 1
    for order in "BL":
        with _opened(io.BytesIO(data)) as image:
            _check_size(path, *image.size, most)
            frames = getattr(image, "n_frames", 1)
            if not gray:
                raw = f"{image.mode};16{order}"
                image.tile = [(*tile[:3], raw) for tile in image.tile]
            halves.append(np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16))
    if gray:
        return (halves[0][..., 0] << 8) | halves[0][..., 1], frames
    return ((halves[0] << 8) | halves[1])[..., :3], frames


def _deep_netpbm_header(path: Path) -> re.Match[bytes] | None:
    """The header of a PGM or PPM of more than 8 bits, whose values Pillow would rescale."""
    with path.open("rb") as file:
        head = file.read(1 << 20) if file.read(1) == b"P" else b""
    header = _NETPBM.match(b"P" + head)
    return header if header and 255 < int(header[4]) <= 65535 else None


def _deep_netpbm(path: Path, most: float) -> tuple[np.ndarray, int]:
    """The values as they are stored, whatever the stated maximum is; one image."""
    header = _deep_netpbm_header(path)
    assert header is not None
    kind, width, height = (int(header[i]) for i in (1, 2, 3))
    _check_size(path, width, height, most)
    shape = (height, width, 3) if kind in (3, 6) else (height, width)
    data, count = path.read_bytes()[header.end() :], int(np.prod(shape))
    if kind in (5, 6):
        pixels = np.frombuffer(data, ">u2", count)
    else:
        words = re.sub(rb"#[^\r\n]*", b"", data).split()
        pixels = np.array([int(word) for word in words[:count]], np.uint16)
    if not count or pixels.size != count:
        raise UserError(f"image {path} holds {pixels.size} of {count} values; copy it again")
    return pixels.reshape(shape).astype(np.uint16), 1


def _is_deep_tiff(path: Path) -> bool:
    """Whether a file is a TIFF that Pillow cannot read right.

    That is one of more than 8 bits, of signed values, or of channels stored one after another.
    """
    with path.open("rb") as file:
        if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return False
    tifffile = _tifffile()
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        deep = page.dtype != np.uint8 and page.bitspersample >= 8
        return deep or (page.planarconfig == 2 and page.samplesperpixel > 1)


def _tiff(path: Path, most: float) -> tuple[np.ndarray, int]:
    """The pixels of the first page, and the number of pages."""
    tifffile = _tifffile()
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        _check_size(path, page.imagewidth, page.imagelength, most)
        samples = {0: (1, 2), 1: (1, 2), 2: (3, 4)}.get(page.photometric, ())  # with alpha or not
        if page.samplesperpixel not in samples:
            kind = getattr(page.photometric, "name", page.photometric)
            raise UserError(
                f"image {path} is a TIFF of {counted(page.samplesperpixel, 'channel')} of the kind {kind}; save it as "
                f"RGB or gray"
            )
        try:
            pixels = page.asarray()
        except (ValueError, ImportError) as error:  # a compression that needs another package
            if re.search("failed to read|missing data|corrupted", str(error)):
                raise
            pixels = _unpacked(path, page, most)
            if pixels is None:
                raise UserError(
                    f"image {path} is a TIFF of {page.dtype} in a compression that cannot be read ({error}); "
                    "save it without compression"
                ) from error
        inverted, frames = page.photometric == 0, len(file.pages)
        axes = page.axes
    if "S" in axes and axes.index("S") < axes.index("Y"):
        pixels = np.moveaxis(pixels, axes.index("S"), -1)
    pixels = (
        pixels[..., 0]
        if pixels.ndim == 3 and pixels.shape[2] in (1, 2)
        else pixels[..., :3]
        if pixels.ndim == 3
        else pixels
    )
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "uif":
        raise UserError(
            f"image {path} is a TIFF of {pixels.dtype} with axes {axes}, and not an image"
        )
    if inverted:
        pixels = -pixels if pixels.dtype.kind == "f" else ~pixels  # -(-128) does not fit in 8 bits
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="))), frames


def _unpacked(path: Path, page: Any, most: float) -> np.ndarray | None:
    """A gray page in a compression that only Pillow knows, such as LZW; None where it would change values."""
    if page.samplesperpixel != 1 or page.dtype not in (np.uint16, np.float32):
        return None
    try:
        image = _opened(path)
    except OSError:
        return None
    with image:
        _check_size(path, *image.size, most)
        pixels = np.asarray(image)  # what it raises is about damage
    return pixels if pixels.dtype.newbyteorder("=") == page.dtype else None


def resize(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear resize with half-pixel centers, clamped edges and no antialiasing (skimage's order 1).

    x (H, W) -> (height, width) float32.
    """
    for axis, size in ((0, height), (1, width)):
        n = x.shape[axis]
        position = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        low = np.floor(position).astype(int)
        fraction = (position - low).astype(np.float32).reshape(-1, *[1] * (1 - axis))
        first, second = (np.take(x, i, axis) for i in (low, np.minimum(low + 1, n - 1)))
        x = first + (second - first) * fraction
    return x.astype(np.float32)


def resize_8bit(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """OpenCV's bilinear resize of 8-bit images in its integer arithmetic (weights of 11 bits).

    x (H, W) or (H, W, 3) uint8 -> (height, width) or (height, width, 3) uint8.
    """

    def positions(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The index before each new pixel, and the fraction after it."""
        position = ((np.arange(size) + 0.5) * (n / size) - 0.5).astype(np.float32)
        low = np.floor(position).astype(int)
        return low, position - low.astype(np.float32)

    def weights(fraction: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
        return [np.rint(f * 2048).astype(int).reshape(shape) for f in (1 - fraction, fraction)]

    channels, (rows, columns) = (1,) * (x.ndim - 2), x.shape[:2]
    left, fraction = positions(columns, width)
    fraction = np.where((left < 0) | (left >= columns - 1), np.float32(0), fraction)
    left = np.clip(left, 0, columns - 1)
    first, second = weights(fraction, (1, -1, *channels))
    x = x.astype(int)
    x = x[:, left] * first + x[:, np.minimum(left + 1, columns - 1)] * second
    top, fraction = positions(rows, height)
    first, second = weights(fraction, (-1, 1, *channels))
    upper, lower = (x[np.clip(t, 0, rows - 1)] >> 4 for t in (top, top + 1))
    return ((((first * upper) >> 16) + ((second * lower) >> 16) + 2) >> 2).astype(np.uint8)


def resample(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """Another size, by Pillow's bicubic filter, which averages where the image shrinks.

    x (H, W, 3) uint8, or (H, W) float32 in [0, 1] -> the same type; `x` itself where the size is the same.
    """
    from PIL import Image

    if x.shape[:2] == (height, width):
        return x
    size, bicubic = (width, height), Image.Resampling.BICUBIC
    if x.dtype == np.uint8:
        return np.asarray(Image.fromarray(x).resize(size, bicubic))
    return np.clip(np.asarray(Image.fromarray(x, "F").resize(size, bicubic)), 0, 1)


WRITTEN = {  # the endings of images that are written, and Pillow's names of their formats
    ".png": "png",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".bmp": "bmp",
    ".webp": "webp",
}
DEEP = ("png", "tiff")  # those that hold 16 bits


def format_of(path: str | Path, bits: int = 8) -> str:
    """The format of an image to be written, by its ending. Raises UserError for another, or too few bits."""
    known = {k: v for k, v in WRITTEN.items() if bits == 8 or v in DEEP}
    kind = known.get(Path(path).suffix.lower())
    if kind is None:
        endings = ", ".join(k[1:] for k in known)
        raise UserError(
            f"an image of {bits} bits cannot be written to {path}; use one of {endings}"
        )
    return kind


def write(path: str | Path, pixels: np.ndarray, kind: str = "png") -> None:
    """Writes pixels (H, W) or (H, W, 3) in Pillow's format `kind`, under a temporary name first.

    pixels: uint8, or uint16 for png and tiff. Raises UserError when the file cannot be written.
    """
    from PIL import Image

    with replacing(path, "the image", "image") as temporary:
        if pixels.dtype == np.uint16 and kind == "tiff":
            import tifffile

            photometric = "rgb" if pixels.ndim == 3 else "minisblack"
            tifffile.imwrite(temporary, pixels, photometric=photometric)
        elif pixels.dtype == np.uint16 and pixels.ndim == 3:
            temporary.write_bytes(_deep_rgb_png(pixels))
        else:
            options = {"png": {"compress_level": PNG_LEVEL}, "jpeg": {"quality": 95}}.get(kind, {})
            Image.fromarray(pixels).save(temporary, format=kind, **options)


def _deep_rgb_png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits in color, which Pillow does not write: (H, W, 3) uint16; each row is unfiltered."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    data = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1).tobytes()
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x10\2\0\0\0"
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(data, PNG_LEVEL)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")
        for name, body in chunks
    )
