"""Polygons as run lengths, equal to COCO's own rasterisation pixel by pixel.

COCO's rule: the corners are rounded to a grid 5 times as fine as the pixels, and the outline is
walked on that grid, edge by edge, one step at a time along the edge's longer axis. Where a step
crosses the middle of a column of pixels, the pixels of this column from there on are inverted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FINE = 5.0
_LARGEST = 2**26  # so that a coordinate on the grid fits in 32 bits, as in COCO's code
_LONGEST = 2**22  # steps: an outline of 800 000 pixels, some 300 MB of memory


def polygon_lengths(corners: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Return the lengths of runs down the columns, zeros first, of a polygon's mask.

    The corners are (N, 2), x and y in pixels.
    """
    height, width = size
    if not (np.isfinite(corners).all() and np.abs(corners).max() < _LARGEST):
        raise ValueError(f"a polygon's coordinates must be numbers below {_LARGEST}, got others")
    start = (_FINE * corners + 0.5).astype(np.int64)
    end = np.roll(start, -1, axis=0)
    steps = np.abs(end - start)
    counts = steps.max(axis=1) + 1
    if int(counts.sum()) > _LONGEST:
        raise ValueError(
            f"a polygon's outline must have at most {_LONGEST // 5} pixels, got "
            f"{int(counts.sum()) // 5}"
        )
    along, across = _walk(start, end, steps, counts)
    moved = np.flatnonzero(along[1:] != along[:-1]) + 1
    column = np.where(along[moved] < along[moved - 1], along[moved], along[moved] - 1)
    column = (column + 0.5) / _FINE - 0.5
    row = (np.minimum(across[moved], across[moved - 1]) + 0.5) / _FINE - 0.5
    crossed = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    first = np.ceil(row[crossed].clip(0, height)).astype(np.int64)
    place = np.sort(column[crossed].astype(np.int64) * height + first)
    # Every place inverts all pixels after it: those between two places are on.
    return np.diff(np.concatenate([[0], place, [height * width]]))


def _walk(
    start: NDArray[np.int64],
    end: NDArray[np.int64],
    steps: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return x and y of all points of the outline on the fine grid, in its order.

    An edge is computed from the end with the smaller coordinate on its longer axis, whichever way
    it is walked: the roundings depend on it.
    """
    wide = steps[:, 0] >= steps[:, 1]
    longer = np.where(wide, 0, 1)
    edge = np.arange(len(start))
    back = start[edge, longer] > end[edge, longer]
    low = np.where(back[:, None], end, start)
    high = np.where(back[:, None], start, end)
    run = steps[edge, longer]
    rise = (high - low)[edge, 1 - longer]
    slope = rise / np.maximum(run, 1)
    # From here on, one entry for each point.
    edge = np.repeat(edge, counts)
    step = np.arange(edge.size) - np.repeat(np.cumsum(counts) - counts, counts)
    step = np.where(back[edge], run[edge] - step, step)
    on_longer = low[edge, longer[edge]] + step
    on_other = (low[edge, 1 - longer[edge]] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(wide[edge], on_longer, on_other), np.where(wide[edge], on_other, on_longer)
