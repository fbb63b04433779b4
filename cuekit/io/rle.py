"""COCO's run lengths: masks as the lengths of runs of equal pixels, down the columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cuekit._checks import check_array, check_integer, check_masks, check_pixels
from cuekit.io._unpickle import show

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_SIDE = 2**31
# A count is written in pieces of 5 bits; 7 of them hold every count below 2**31, with its sign.
_MOST_PIECES = 7


def encode_rle(mask: Any) -> dict[str, Any]:
    """Encode a mask as COCO's compressed run lengths.

    Parameters
    ----------
    mask : (H, W) array or tensor of bool, or uint8 with 0 and 1, or 0 and 255
        H and W are at least 1.

    Returns
    -------
    dict
        ``{"size": [H, W], "counts": text}``, as it stands in JSON files. `counts` has the
        characters that pycocotools' ``encode`` returns as bytes.

    Raises
    ------
    TypeError
        If `mask` is not an array or tensor of these dtypes.
    ValueError
        If a shape or value is not as described above.

    References
    ----------
    T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014,
    :doi:`10.1007/978-3-319-10602-1_48`; the format: https://cocodataset.org/#format-data

    Examples
    --------
    >>> import numpy as np
    >>> from cuekit.io import decode_rle, encode_rle
    >>> encode_rle(np.array([[0, 1], [1, 1]], dtype=bool))
    {'size': [2, 2], 'counts': '13'}
    >>> decode_rle({"size": [2, 2], "counts": "13"})
    array([[False,  True],
           [ True,  True]])
    """
    pixels = check_mask(mask)
    height, width = pixels.shape
    return {
        "size": [height, width],
        "counts": _compressed(run_lengths(pixels.T.reshape(-1))).decode("ascii"),
    }


def check_mask(mask: Any) -> NDArray[np.bool_]:
    """Return one mask as bool."""
    array = check_array(mask, "mask", ("bool", "uint8"), ndim=2, layout="(H, W)")
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"mask must have shape (H, W), H and W >= 1, got {array.shape}")
    check_pixels(array, "mask")
    check_masks(array, "mask")
    on: NDArray[np.bool_] = array != 0
    return on


def run_lengths(pixels: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the lengths of runs of equal pixels (N,); the first is of zeros and may be 0."""
    ends = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    start = [0, 0] if pixels[0] else [0]
    return np.diff(np.concatenate([start, ends, [pixels.size]]))


def decode_rle(rle: Mapping[str, Any], *, max_pixels: int = 2**28) -> NDArray[np.bool_]:
    """Decode COCO's run lengths, compressed or not.

    Parameters
    ----------
    rle : mapping
        ``{"size": [H, W], "counts": ...}``. `counts` is text or bytes (compressed), or a list or an
        array of integers: the lengths of runs of equal pixels down the columns, zeros first.
    max_pixels : int, default 2**28
        Limit of H · W. Some bytes in a file can stand for very large masks.

    Returns
    -------
    (H, W) array of bool

    Raises
    ------
    TypeError
        If `rle` is no mapping, or `max_pixels` is not an integer.
    ValueError
        If there is no size or no counts, if the counts are damaged or do not add up to H · W, or if
        the mask has more pixels than `max_pixels`.

    Examples
    --------
    >>> from cuekit.io import decode_rle
    >>> decode_rle({"size": [2, 2], "counts": [1, 3]})  # down the columns: one 0, three 1
    array([[False,  True],
           [ True,  True]])
    """
    if not isinstance(rle, Mapping):
        raise TypeError(f"rle must be a mapping with size and counts, got {type(rle).__name__}")
    limit = check_integer(max_pixels, "max_pixels", minimum=1)
    size = checked_size(rle.get("size"))
    if size[0] * size[1] > limit:
        raise ValueError(
            f"a mask must have at most max_pixels = {limit} pixels, got {size[0]} x {size[1]}"
        )
    return decoded(rle.get("counts"), size)


def checked_size(value: object) -> tuple[int, int]:
    """Return the (height, width) of a mask in a file."""
    sides = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise ValueError(f"a mask's size must be [height, width], got {show(value)}")
    if not all(type(side) is int and 1 <= side < _MAX_SIDE for side in sides):
        raise ValueError(f"a mask's size must be two integers >= 1, got {show(tuple(sides))}")
    return sides[0], sides[1]


def decoded(counts: object, size: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the mask of COCO's run lengths, which go down the columns and begin with 0."""
    lengths = checked_lengths(counts, size)
    values = np.arange(lengths.size) % 2 == 1
    return np.repeat(values, lengths).reshape(size[1], size[0]).T


def checked_lengths(counts: object, size: tuple[int, ...]) -> NDArray[np.int64]:
    """Return COCO's run lengths as integers that add up to the number of pixels."""
    if isinstance(counts, str | bytes):
        lengths = _decompressed(counts)
    elif isinstance(counts, list) and all(type(count) is int for count in counts):
        if not all(0 <= count < 2**62 for count in counts):
            raise ValueError("the counts of a mask must be integers >= 0, got others")
        lengths = np.array(counts, np.int64)
    elif isinstance(counts, np.ndarray) and counts.ndim == 1 and counts.dtype.kind in "iu":
        lengths = counts.astype(np.int64)
    else:
        raise ValueError(f"the counts of a mask must be text or integers, got {show(counts)}")
    height, width = size
    pixels = height * width
    if lengths.size and (int(lengths.min()) < 0 or int(lengths.max()) > pixels):
        raise ValueError(f"the counts of a mask must be in 0..{pixels}, got others")
    # Each is at most `pixels`, so that the sum cannot overflow before this many.
    if lengths.size >= 2**31 or int(lengths.sum()) != pixels:
        raise ValueError(f"the counts of a mask of {height} x {width} must add up to {pixels}")
    return lengths


def _decompressed(counts: str | bytes) -> NDArray[np.int64]:
    """Return the numbers of COCO's compressed counts.

    A character holds 5 bits, the lowest first, added to 48; bit 5 says that more follow. The last
    piece of a number is signed. From the fourth number on, the difference from the number two
    places before is written.
    """
    data = counts.encode(errors="surrogatepass") if isinstance(counts, str) else counts
    pieces = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if pieces.size == 0:
        return pieces
    if int(pieces.min()) < 0 or int(pieces.max()) > 63 or pieces[-1] & 32:
        raise ValueError(f"compressed counts must be whole, in '0' to 'o', got {show(counts)}")
    last = np.flatnonzero((pieces & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if int((last - first).max()) >= _MOST_PIECES:
        raise ValueError(
            f"a compressed count must have at most {_MOST_PIECES} characters, got more"
        )
    places = np.arange(pieces.size) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((pieces & 31) << (5 * places), first)
    negative = (pieces[last] & 16) != 0
    numbers[negative] -= np.int64(1) << (5 * (last - first + 1)[negative])
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _compressed(counts: NDArray[np.int64]) -> bytes:
    """Return counts as COCO compresses them: what `_decompressed` reads."""
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    characters = np.zeros((len(rest), _MOST_PIECES), np.uint8)
    for place in range(_MOST_PIECES):
        piece = rest & 31
        rest = rest >> 5
        # The last piece's highest bit is the sign: the rest must be all zeros or all ones like it.
        more = rest != np.where(piece & 16, -1, 0)
        characters[:, place] = piece + 48 + 32 * more
    # A number ends with its first piece that has no bit 5.
    ends = ((characters - 48) & 32 == 0).argmax(axis=1)
    compressed: bytes = characters[np.arange(_MOST_PIECES) <= ends[:, None]].tobytes()
    return compressed
