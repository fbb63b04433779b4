"""Reads PNGs of labels and checks all that protects them: nothing damaged is read.

Pillow compares the checksums of some chunks only, not that of the compressed pixels, and accepts
files that end early: a flipped bit can give other labels there. Here every chunk's CRC, the
checksum of the compressed pixels and their number are compared. The pixels are inflated once.
Rows without a filter, which palette images have, are then the pixels. Pillow undoes the filters
that need more than a sum.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Pillow's names of colour types, for errors. Type 0 is gray, type 3 a palette.
_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# Adam7: first row, first column, distance of rows, distance of columns of each pass.
_PASSES = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)


class Header(NamedTuple):
    """The fields of IHDR that matter."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool

    @property
    def mode(self) -> str:
        """The name that Pillow gives to such pixels."""
        if self.colour == 0 and self.depth in (1, 16):
            return "1" if self.depth == 1 else "I;16"
        return _MODES[self.colour]

    @property
    def channels(self) -> int:
        """The number of values of a pixel."""
        return _CHANNELS[self.colour]

    def row_bytes(self, width: int) -> int:
        """Return the bytes of a row of `width` pixels, with its filter's number."""
        return 1 + (width * self.channels * self.depth + 7) // 8

    def size_of_rows(self) -> int:
        """Return the bytes of all rows, inflated."""
        if not self.interlaced:
            return self.height * self.row_bytes(self.width)
        total = 0
        for top, left, down, across in _PASSES:
            rows, columns = -(-(self.height - top) // down), -(-(self.width - left) // across)
            if rows > 0 and columns > 0:
                total += rows * self.row_bytes(columns)
        return total


class Pixels(NamedTuple):
    """The pixels of a PNG, and its palette if it has one."""

    values: NDArray[np.uint8]  # (H, W) palette indices or gray values, or (H, W, 3) colours
    palette: bytes  # red, green and blue of each index; empty where there is none


def read_pixels(data: bytes, check: Callable[[Header], None]) -> Pixels:
    """Return the pixels of a PNG with a palette, gray or RGB.

    Parameters
    ----------
    data : bytes
        The file.
    check : callable
        Called with the header before anything is inflated; raises if such pixels are not wanted.

    Raises
    ------
    ValueError
        If the file is not a whole, undamaged PNG.
    """
    chunks = _chunks(data)
    name, start = next(chunks)
    if name != b"IHDR" or len(start) != 13:
        raise ValueError("the first chunk is not IHDR")
    header = _header(start)
    check(header)
    compressed = []
    palette = b""
    for name, content in chunks:
        if name == b"IDAT":
            compressed.append(content)
        elif name == b"IHDR":
            raise ValueError("a second IHDR")
        elif name == b"PLTE" and header.colour == 3:
            palette = bytes(content)
    rows = _inflate(compressed, header.size_of_rows())
    return Pixels(_unfilter(rows, header), palette)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield name and content of every chunk, up to IEND; each chunk's CRC is compared first."""
    if not data.startswith(SIGNATURE):
        raise ValueError("no PNG signature")
    view = memoryview(data)
    position = len(SIGNATURE)
    while True:
        content = position + 8
        if content + 4 > len(data):
            raise ValueError("the file ends before IEND")
        (length,) = struct.unpack_from(">I", data, position)
        end = content + length
        if end + 4 > len(data):
            raise ValueError(f"the file ends within the chunk at byte {position}")
        name = data[position + 4 : content]
        (crc,) = struct.unpack_from(">I", data, end)
        if zlib.crc32(view[position + 4 : end]) != crc:
            raise ValueError(f"the CRC of the chunk at byte {position} does not match")
        yield name, view[content:end]
        if name == b"IEND":
            return
        position = end + 4


def _header(content: memoryview) -> Header:
    width, height, depth, colour, *methods, interlace = struct.unpack(">IIBBBBB", content)
    if not (0 < width < 2**31 and 0 < height < 2**31):
        raise ValueError(f"a size of {width} x {height}")
    if depth not in _DEPTHS.get(colour, ()):
        raise ValueError(f"colour type {colour} with {depth} bits")
    if methods != [0, 0] or interlace > 1:
        raise ValueError("an unknown compression, filter or interlace method")
    return Header(width, height, depth, colour, interlaced=interlace == 1)


def _inflate(compressed: list[memoryview], size: int) -> bytes:
    """Decompress the pixels; their checksum and their number must match."""
    stream = zlib.decompressobj()
    try:
        # One byte more than there should be: it tells whether there are too many.
        rows = stream.decompress(b"".join(compressed), size + 1)
    except zlib.error as error:
        raise ValueError(f"damaged pixels: {error}") from error
    if len(rows) != size or not stream.eof:
        more = "more" if len(rows) > size else "less"
        raise ValueError(f"the pixels take {size} bytes, and the file has {more}, or no checksum")
    return rows


def _unfilter(rows: bytes, header: Header) -> NDArray[np.uint8]:
    """Return the values of rows, each of which begins with the number of its filter."""
    if not header.interlaced:
        step = header.channels if header.depth == 8 else 1
        table = np.frombuffer(rows, np.uint8).reshape(header.height, -1)
        filters, values = table[:, 0], table[:, 1:]
        if not filters.any():
            return _unpack(values, header)
        if (
            filters.max() == 1
        ):  # each byte is the difference from the pixel before, as OpenCV writes
            values = values.copy()
            pixels = values[filters == 1].reshape(-1, values.shape[1] // step, step)
            values[filters == 1] = pixels.cumsum(1, dtype=np.uint8).reshape(len(pixels), -1)
            return _unpack(values, header)
    from PIL import Image

    mode = "P" if header.colour == 3 else header.mode
    raw_mode = mode if header.depth == 8 or mode == "1" else f"{mode};{header.depth}"
    size = header.width, header.height
    image = Image.frombytes(mode, size, _stored(rows), "zip", raw_mode, int(header.interlaced))
    return np.array(image, dtype=np.uint8)


def _stored(rows: bytes) -> bytes:
    """Return a zlib stream of blocks that are not compressed: the rows have been inflated already.

    zlib.compress of level 0 makes such a stream in twice the time.
    """
    parts: list[bytes | memoryview] = [b"\x78\x01"]
    for start in range(0, len(rows), 65535):
        block = memoryview(rows)[start : start + 65535]
        is_last = start + 65535 >= len(rows)
        parts += [struct.pack("<BHH", is_last, len(block), 65535 - len(block)), block]
    return b"".join([*parts, struct.pack(">I", zlib.adler32(rows))])


def _unpack(rows: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    """Return the values of unfiltered rows, of which a byte may hold several."""
    if header.depth == 8:
        shape = (header.height, header.width, header.channels)
        return np.array(rows, order="C").reshape(shape[:2] if header.channels == 1 else shape)
    shifts = np.arange(8 - header.depth, -1, -header.depth, dtype=np.uint8)
    values = (rows[:, :, None] >> shifts) & np.uint8(2**header.depth - 1)
    return np.ascontiguousarray(values.reshape(header.height, -1)[:, : header.width])
