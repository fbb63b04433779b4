"""Peers: other implementations of the same functions, as an expert of each library writes them.

Everything that can be prepared before a call is an argument: outputs to write into, labels in the
integer type that is fastest in the library, the number of superpixels, and all that depends on
sizes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numba
import numpy as np
import torch
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from scipy.sparse import linalg as sparse_linalg
from scipy.spatial import distance
from skimage import color, segmentation

from benchmarks.peers_torch import REFINE as REFINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cuekit import CRFParams, SuperpixelGraph

Array: TypeAlias = np.ndarray[Any, Any]
Tensor: TypeAlias = torch.Tensor

torch.set_num_threads(1)

# --- felzenszwalb: photo (H, W, 3) uint8 -> labels (H, W) -----------------------------------------


def felzenszwalb_skimage(photo: Array) -> Array:
    """Call the function that cuekit must agree with."""
    labels: Array = segmentation.felzenszwalb(photo, 200, 0.8, 60)
    return labels


def felzenszwalb_opencv(photo: Array) -> Array:
    """Use one segmenter for all photos, with one thread."""
    labels: Array = opencv_segmenter().processImage(photo)
    return labels


@cache
def opencv_segmenter() -> Any:
    """Create the segmenter; its scale is for colours up to 255, as in the authors' code."""
    import cv2

    cv2.setNumThreads(1)
    return cv2.ximgproc.segmentation.createGraphSegmentation(sigma=0.8, k=200, min_size=60)


FELZENSZWALB = {"scikit-image": felzenszwalb_skimage}
if find_spec("cv2"):
    FELZENSZWALB["OpenCV"] = felzenszwalb_opencv

# --- superpixel_mean: values (K, N) float32, labels (N,), out (K, N) ------------------------------


def mean_numpy(values: Array, labels: Array, segments: int, out: Array) -> Array:
    """Weighted bincount per channel, then take."""
    sizes = np.bincount(labels, minlength=segments)
    for channel, painted in zip(values, out, strict=True):
        means = np.bincount(labels, weights=channel, minlength=segments) / sizes
        # mode "clip", because "raise" does not write directly into `out`
        np.take(means.astype(out.dtype), labels, out=painted, mode="clip")
    return out


def mean_numpy_runs(values: Array, labels: Array, segments: int, out: Array) -> Array:
    """Sum runs of equal labels by reduceat, then the runs by bincount; paint by repeat."""
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    run_labels = labels[starts]
    lengths = np.diff(starts, append=labels.size)
    sizes = np.bincount(labels, minlength=segments)
    run_sums = np.add.reduceat(values, starts, axis=1)
    for sums, painted in zip(run_sums, out, strict=True):
        means = np.bincount(run_labels, weights=sums, minlength=segments) / sizes
        painted[:] = np.repeat(means.astype(out.dtype)[run_labels], lengths)
    return out


def mean_scipy(values: Array, labels: Array, segments: int, out: Array) -> Array:
    """`scipy.ndimage.mean` per channel, then take."""
    index = np.arange(segments)
    for channel, painted in zip(values, out, strict=True):
        means = ndimage.mean(channel, labels, index)
        np.take(means.astype(out.dtype), labels, out=painted, mode="clip")
    return out


def mean_scipy_sparse(values: Array, labels: Array, segments: int, out: Array) -> Array:
    """Multiply by the sparse membership matrix (N, S), then take."""
    pixels = labels.size
    ones, rows = np.ones(pixels, values.dtype), np.arange(pixels + 1, dtype=np.int32)
    member = sparse.csr_matrix((ones, labels.astype(np.int32), rows), shape=(pixels, segments))
    means = (values @ member) / np.bincount(labels, minlength=segments)
    return np.take(means.astype(out.dtype), labels, axis=1, out=out, mode="clip")


def mean_torch_index_add(values: Tensor, labels: Tensor, segments: int, out: Tensor) -> Tensor:
    """`index_add_` along the pixels, then `index_select`."""
    sums = torch.zeros(len(values), segments).index_add_(1, labels, values)
    sums /= torch.bincount(labels, minlength=segments)
    return torch.index_select(sums, 1, labels, out=out)


def mean_torch_rows(values: Tensor, labels: Tensor, segments: int, out: Tensor) -> Tensor:
    """`index_add_` of whole pixels, channels last, then `index_select`."""
    sums = torch.zeros(segments, len(values)).index_add_(0, labels, values.T.contiguous())
    sums /= torch.bincount(labels, minlength=segments)[:, None]
    return torch.index_select(sums.T.contiguous(), 1, labels, out=out)


def mean_torch_scatter_add(values: Tensor, labels: Tensor, segments: int, out: Tensor) -> Tensor:
    """`scatter_add_`, then `index_select`."""
    sums = torch.zeros(len(values), segments)
    sums.scatter_add_(1, labels.expand_as(values), values)
    sums /= torch.bincount(labels, minlength=segments)
    return torch.index_select(sums, 1, labels, out=out)


def mean_torch_scatter_reduce(values: Tensor, labels: Tensor, segments: int, out: Tensor) -> Tensor:
    """`scatter_reduce_` with "mean", then `index_select`."""
    means = torch.zeros(len(values), segments)
    means.scatter_reduce_(1, labels.expand_as(values), values, "mean", include_self=False)
    return torch.index_select(means, 1, labels, out=out)


@numba.njit
def _runs(labels: Array, starts: Array, run_labels: Array, sizes: Array) -> int:
    """Find the runs of equal labels; return their number."""
    runs = 0
    previous = -1
    for i in range(labels.size):
        if labels[i] != previous:
            previous = labels[i]
            starts[runs] = i
            run_labels[runs] = previous
            runs += 1
    starts[runs] = labels.size
    for r in range(runs):
        sizes[run_labels[r]] += starts[r + 1] - starts[r]
    return runs


@numba.njit
def mean_numba(values: Array, labels: Array, segments: int, out: Array) -> Array:
    """Sum and paint by runs of equal labels, one channel at a time."""
    starts, run_labels = np.empty(labels.size + 1, np.int64), np.empty(labels.size, np.int64)
    sizes = np.zeros(segments, np.int64)
    runs = _runs(labels, starts, run_labels, sizes)
    for k in range(len(values)):
        sums = np.zeros(segments)
        for r in range(runs):
            total = 0.0
            for i in range(starts[r], starts[r + 1]):
                total += values[k, i]
            sums[run_labels[r]] += total
        for r in range(runs):
            mean = np.float32(sums[run_labels[r]] / sizes[run_labels[r]])
            for i in range(starts[r], starts[r + 1]):
                out[k, i] = mean
    return out


@numba.njit(fastmath=True)
def mean_numba_tuned(values: Array, labels: Array, segments: int, out: Array) -> Array:
    """Sum by runs of equal labels, four channels in one pass.

    Four independent sums hide the latency of an addition. Unsigned indices avoid numba's check for
    negative indices at every access.
    """
    starts, run_labels = np.empty(labels.size + 1, np.uint64), np.empty(labels.size, np.uint64)
    sizes = np.zeros(segments, np.uint64)
    runs = _runs(labels, starts, run_labels, sizes)
    sums = np.zeros((segments, 4))
    for first in range(0, len(values), 4):
        sums[:] = 0
        count = min(4, len(values) - first)
        if count == 4:
            v0, v1, v2, v3 = values[first], values[first + 1], values[first + 2], values[first + 3]
            for r in range(runs):
                a, b, c, d = 0.0, 0.0, 0.0, 0.0
                for i in range(starts[r], starts[r + 1]):
                    a += v0[i]
                    b += v1[i]
                    c += v2[i]
                    d += v3[i]
                s = run_labels[r]
                sums[s, 0] += a
                sums[s, 1] += b
                sums[s, 2] += c
                sums[s, 3] += d
        else:
            for k in range(count):
                for r in range(runs):
                    total = 0.0
                    for i in range(starts[r], starts[r + 1]):
                        total += values[first + k, i]
                    sums[run_labels[r], k] += total
        for k in range(count):
            painted = out[first + k]
            for r in range(runs):
                mean = np.float32(sums[run_labels[r], k] / sizes[run_labels[r]])
                for i in range(starts[r], starts[r + 1]):
                    painted[i] = mean
    return out


# --- snap_cues: labels (N,), out (K, N) bool ------------------------------------------------------


def nearest_cells(grid: Sequence[int], size: Sequence[int]) -> Array:
    """Return the nearest cell of the small grid for every pixel."""
    rows, columns = (
        (2 * np.arange(out) + 1) * cells // (2 * out) for cells, out in zip(grid, size, strict=True)
    )
    return (rows[:, None] * grid[1] + columns).ravel()


def bilinear_corners(grid: Sequence[int], size: Sequence[int]) -> tuple[Array, Array]:
    """Return the four cells (4, N) around every pixel, and their weights (4, N)."""
    sides = []
    for cells, out in zip(grid, size, strict=True):
        position = np.maximum((np.arange(out) + 0.5) * cells / out - 0.5, 0)
        low = np.minimum(position.astype(int), cells - 1)
        weight = position - low
        sides.append(((low, 1 - weight), (np.minimum(low + 1, cells - 1), weight)))
    corners = [(row, column) for row in sides[0] for column in sides[1]]
    index = [(y[:, None] * grid[1] + x).ravel() for (y, _), (x, _) in corners]
    weights = [np.outer(v, w).ravel() for (_, v), (_, w) in corners]
    return np.array(index), np.array(weights)


def bilinear_matrix(cells: int, size: int) -> Array:
    """Return the (size, cells) matrix that resizes one axis."""
    position = np.maximum((np.arange(size) + 0.5) * cells / size - 0.5, 0)
    low = np.minimum(position.astype(int), cells - 1)
    matrix = np.zeros((size, cells))
    np.add.at(matrix, (np.arange(size), low), 1 - (position - low))
    np.add.at(matrix, (np.arange(size), np.minimum(low + 1, cells - 1)), position - low)
    return matrix


def snap_numpy_cues(
    cues: Array, labels: Array, segments: int, cells: Array | None, out: Array
) -> Array:
    """Per channel: resize by index, count the pixels that are on, threshold, paint."""
    sizes = np.bincount(labels, minlength=segments)
    for channel, painted in zip(cues.reshape(len(cues), -1), out, strict=True):
        if not channel.any():
            painted.fill(False)
            continue
        mask = channel if cells is None else channel[cells]
        means = np.bincount(labels[mask], minlength=segments) / sizes
        on = (means > 0.3 * means.max()) & (means > 0)
        np.take(on, labels, out=painted, mode="clip")
    return out


def snap_numpy_maps(
    maps: Array, labels: Array, segments: int, resize: tuple[Array, Array], out: Array
) -> Array:
    """Per channel: resize by two matrix products, weighted bincount, threshold, paint."""
    sizes = np.bincount(labels, minlength=segments)
    for channel, painted in zip(maps, out, strict=True):
        values = (resize[0] @ channel @ resize[1].T).ravel()
        means = np.bincount(labels, weights=values, minlength=segments) / sizes
        on = (means > 0.3 * means.max()) & (means > 0)
        np.take(on, labels, out=painted, mode="clip")
    return out


def snap_numpy_joint(
    maps: Array, labels: Array, segments: int, corners: tuple[Array, Array | None], out: Array
) -> Array:
    """Make a joint histogram of superpixels and cells, then one matrix product for all channels.

    The mean over a superpixel is linear in the cells, so only the histogram is a pass over pixels.
    """
    index, weights = corners
    cells = maps[0].size
    share = np.zeros(segments * cells)
    for corner, index_of_corner in enumerate(index):
        weight = None if weights is None else weights[corner]
        share += np.bincount(labels * cells + index_of_corner, weight, segments * cells)
    share = share.reshape(segments, cells)
    used = np.flatnonzero(maps.any((1, 2)))
    sums = maps[used].reshape(len(used), -1).astype(np.float64) @ share.T
    means = sums / np.bincount(labels, minlength=segments)
    on = (means > 0.3 * means.max(1, keepdims=True)) & (means > 0)
    if len(used) == len(maps):
        return np.take(on, labels, axis=1, out=out, mode="clip")
    out.fill(False)
    for channel, k in zip(on, used, strict=True):
        np.take(channel, labels, out=out[k], mode="clip")
    return out


def snap_torch(
    maps: Tensor, labels: Tensor, segments: int, size: tuple[int, int], out: Tensor
) -> Tensor:
    """`interpolate`, `index_add_`, threshold, `index_select`."""
    values = torch.nn.functional.interpolate(
        maps[None], size, mode="bilinear", align_corners=False
    )[0].flatten(1)
    means = torch.zeros(len(maps), segments).index_add_(1, labels, values)
    means /= torch.bincount(labels, minlength=segments)
    on = (means > 0.3 * means.amax(1, keepdim=True)) & (means > 0)
    return torch.index_select(on, 1, labels, out=out)


# --- snap_cues: masks (R, N) bool, out (K, N) bool ------------------------------------------------


def snap_masks_numpy(cues: Array, masks: Array, cells: Array, accept: str, out: Array) -> Array:
    """Per channel and mask: overlap and mean by index; then the OR of the accepted masks."""
    uncovered = ~masks.any(0)
    sizes = np.count_nonzero(masks, axis=1)
    for channel, painted in zip(cues.reshape(len(cues), -1), out, strict=True):
        if not channel.any():
            painted.fill(False)
            continue
        on = channel[cells]
        both = np.array([np.count_nonzero(on[mask]) for mask in masks])
        if accept == "sepl":
            accepted = (both / sizes > 0.5) | (both / np.count_nonzero(on) >= 0.85)
        else:
            means = both / sizes
            accepted = (means > 0.3 * means.max()) & (means > 0)
        np.logical_and(on, uncovered, out=painted)
        for mask in masks[accepted]:
            np.logical_or(painted, mask, out=painted)
    return out


def snap_masks_product(
    cues: Array, masks: Array, ones: Array, cells: Array, accept: str, out: Array
) -> Array:
    """Count all overlaps by one matrix product, which is exact in float32 below 2^24 pixels.

    `ones` are the masks as float32.
    """
    used = np.flatnonzero(cues.any((1, 2)))
    on = cues.reshape(len(cues), -1)[used][:, cells]
    both = (on.astype(np.float32) @ ones.T).astype(np.float64)
    sizes = ones.sum(1, dtype=np.float64)
    if accept == "sepl":
        total = np.count_nonzero(on, axis=1)[:, None]
        accepted = (both / sizes > 0.5) | (both / total >= 0.85)
    else:
        means = both / sizes
        accepted = (means > 0.3 * means.max(1, keepdims=True)) & (means > 0)
    out.fill(False)
    uncovered = ~masks.any(0)
    for k, each, kept in zip(used, on, accepted, strict=True):
        np.logical_and(each, uncovered, out=out[k])
        np.logical_or(out[k], masks[kept].any(0), out=out[k])
    return out


# --- mask_scores: maps (C, H, W) float32, masks (R, H, W) bool -> scores (R, C) -------------------


def mask_means_product(maps: Array, masks: Array) -> Array:
    """Return the mean of every map over every mask by one matrix product in float32."""
    ones = masks.reshape(len(masks), -1).astype(np.float32)
    sums: Array = ones @ maps.reshape(len(maps), -1).T
    return sums / np.count_nonzero(masks, axis=(1, 2))[:, None]


def mask_scores_product(maps: Array, masks: Array) -> Array:
    """Return means and both overlaps of cues by two matrix products, the masks converted once."""
    flat = maps.reshape(len(maps), -1)
    ones = masks.reshape(len(masks), -1).astype(np.float32)
    sizes = np.count_nonzero(masks, axis=(1, 2))[:, None]
    cues = (flat > np.maximum(0.3 * flat.max(1, keepdims=True), 0)).astype(np.float32)
    both = ones @ cues.T
    totals = np.maximum(cues.sum(1, dtype=np.float64), 1)
    return np.stack([ones @ flat.T / sizes, both / sizes, both / totals])


def mask_scores_numpy(maps: Array, masks: Array) -> Array:
    """Return the mean of the largest fifth, too: partition the values under every mask."""
    mean, inside, covered = mask_scores_product(maps, masks)
    flat = maps.reshape(len(maps), -1)
    top = np.empty(mean.shape)
    for mask, row in zip(masks.reshape(len(masks), -1), top, strict=True):
        values = np.take(flat, np.flatnonzero(mask), axis=1)
        first = values.shape[1] - max(1, int(0.2 * values.shape[1] + 0.5))
        row[:] = np.partition(values, first, axis=1)[:, first:].mean(1)
    return np.stack([mean, top, inside, covered])


# --- suppress_absent: scores and out (K, H, W) ----------------------------------------------------


def suppress_numpy(scores: Array, present: Array, ceiling: Array, out: Array) -> Array:
    """Compute the maximum over the kept channels, then one minimum per absent channel."""
    kept = np.concatenate([[True], present])
    np.copyto(ceiling, scores[0])
    for k in np.flatnonzero(kept)[1:]:
        np.maximum(ceiling, scores[k], out=ceiling)
    limit = np.nextafter(ceiling, np.float32(-np.inf))
    np.minimum(ceiling - np.float32(1e-4), limit, out=limit)
    for k, keep in enumerate(kept):
        if keep:
            np.copyto(out[k], scores[k])
        else:
            np.minimum(scores[k], limit, out=out[k])
    return out


def suppress_torch(scores: Tensor, present: Tensor, ceiling: Tensor, out: Tensor) -> Tensor:
    """Compute the same as `suppress_numpy`, in torch."""
    kept = [True, *present.tolist()]
    ceiling.copy_(scores[0])
    for k in range(1, len(kept)):
        if kept[k]:
            torch.maximum(ceiling, scores[k], out=ceiling)
    limit = torch.nextafter(ceiling, torch.tensor(-torch.inf))
    torch.minimum(ceiling - 1e-4, limit, out=limit)
    for k, keep in enumerate(kept):
        if keep:
            out[k].copy_(scores[k])
        else:
            torch.minimum(scores[k], limit, out=out[k])
    return out


# --- dense_crf: probabilities (K, H, W) float32, photo (H, W, 3) uint8 -> marginals ---------------


def crf_pydensecrf(probabilities: Array, photo: Array, params: CRFParams) -> Array:
    """Call the function that cuekit agrees with up to rounding; ten iterations."""
    from pydensecrf.densecrf import DenseCRF2D
    from pydensecrf.utils import unary_from_softmax

    channels, height, width = probabilities.shape
    model = DenseCRF2D(width, height, channels)
    model.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities)))
    model.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_weight)
    model.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=photo,
        compat=params.bilateral_weight,
    )
    return np.array(model.inference(10)).reshape(probabilities.shape)


def crf_features_pydensecrf(probabilities: Array, kernels: Sequence[tuple[Array, float]]) -> Array:
    """Call its class for points with features (D, N); probabilities (K, N), ten iterations."""
    from pydensecrf.densecrf import DenseCRF
    from pydensecrf.utils import unary_from_softmax

    channels, points = probabilities.shape
    model = DenseCRF(points, channels)
    model.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities)))
    for features, weight in kernels:
        model.addPairwiseEnergy(features, compat=weight)
    return np.array(model.inference(10))


# --- bilateral_filter: values (K, H, W), photo (H, W, 3) -----------------------------------------


def _pydensecrf_filter(labels: int, photo: Array, sxy: float, srgb: float, weight: float) -> Any:
    """Make a CRF with one bilateral kernel, not normalised, and its marginals."""
    from pydensecrf import densecrf

    height, width = photo.shape[:2]
    model = densecrf.DenseCRF2D(width, height, labels)
    model.setUnaryEnergy(np.zeros((labels, height * width), np.float32))
    model.addPairwiseBilateral(
        sxy=sxy,
        srgb=srgb,
        rgbim=photo,
        compat=weight,
        normalization=densecrf.NO_NORMALIZATION,
    )
    return model, model.startInference()


def filter_pydensecrf(values: Array, photo: Array, sxy: float, srgb: float) -> None:
    """Filter the maps one by one on one lattice, as the module `bilateralfilter` does.

    pydensecrf returns the softmax over labels, which is 1 for one label: the filtered values
    themselves are lost. See the next function.
    """
    model, (marginals, *temporary) = _pydensecrf_filter(1, photo, sxy, srgb, 1)
    for channel in values:
        np.asarray(marginals)[0] = channel.ravel()
        model.stepInference(marginals, *temporary)


def checked_filter_pydensecrf(values: Array, photo: Array, sxy: float, srgb: float) -> Array:
    """Filter all maps at a time, and return the results: logarithms of marginals.

    They are relative to those of one more label, whose values are 0. The weight keeps them small,
    so that the softmax loses nothing.
    """
    weight = 4 / (photo.size / 3 * float(values.max()))
    model, (marginals, *temporary) = _pydensecrf_filter(len(values) + 1, photo, sxy, srgb, weight)
    np.asarray(marginals)[:-1] = values.reshape(len(values), -1)
    np.asarray(marginals)[-1] = 0
    model.stepInference(marginals, *temporary)
    logarithms = np.log(np.array(marginals, np.float64))
    filtered: Array = ((logarithms[:-1] - logarithms[-1]) / weight).reshape(values.shape)
    return filtered


# --- random_walk: maps (C, h, w) and boundary (h, w) float32, radius 5, 256 steps -----------------


def walk_pairs(size: tuple[int, int]) -> list[tuple[Array, Array, Array]]:
    """Return for each offset the first cells (M), the second cells (M), the paths (L, M)."""
    height, width = size
    index = np.arange(height * width).reshape(size)
    pairs = []
    for dy in range(5):
        for dx in range(-4 if dy else 1, 5):
            length = dy * dy + dx * dx
            if length >= 25:
                continue
            first = index[: height - dy, max(0, -dx) : min(width, width - dx)].ravel()
            columns = range(min(0, dx), max(0, dx) + 1)
            box = [(y, x) for y in range(dy + 1) for x in columns]
            steps = [y * width + x for y, x in box if (dy * x - dx * y) ** 2 < length]
            pairs.append((first, first + dy * width + dx, first + np.array(steps)[:, None]))
    return pairs


@dataclass(frozen=True)
class WalkPattern:
    """What depends on the size only."""

    pairs: list[tuple[Array, Array, Array]]
    order: Array  # of (both directions, diagonal) to CSR
    indices: Array
    indptr: Array
    diagonals: Array  # offsets


def walk_pattern(size: tuple[int, int]) -> WalkPattern:
    """Prepare the sparse matrices of a size."""
    pairs, cells = walk_pairs(size), size[0] * size[1]
    first, second = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    rows = np.concatenate([first, second, np.arange(cells)])
    columns = np.concatenate([second, first, np.arange(cells)])
    order = np.lexsort((columns, rows))
    indptr = np.searchsorted(rows[order], np.arange(cells + 1)).astype(np.int32)
    steps = [int(pair[1][0] - pair[0][0]) for pair in pairs]
    offsets = np.array([0, *steps, *(-step for step in steps)])
    return WalkPattern(pairs, order, columns[order].astype(np.int32), indptr, offsets)


def walk_affinities(boundary: Array, pattern: WalkPattern) -> list[Array]:
    """Return the affinities of all pairs, offset by offset."""
    passable = ((1 - boundary) ** 10).ravel()
    return [passable[path].min(0) for _, _, path in pattern.pairs]


def walk_scipy_rows(maps: Array, boundary: Array, pattern: WalkPattern) -> Array:
    """Multiply all maps by one CSR matrix, 256 times."""
    affinities = np.concatenate(walk_affinities(boundary, pattern))
    values = np.concatenate([affinities, affinities, np.ones(boundary.size, np.float32)])
    matrix = sparse.csr_matrix((values[pattern.order], pattern.indices, pattern.indptr))
    sums = np.add.reduceat(matrix.data, pattern.indptr[:-1])
    matrix.data /= np.repeat(sums, np.diff(pattern.indptr))
    walked = np.ascontiguousarray((maps * (1 - boundary)).reshape(len(maps), -1).T)
    for _ in range(256):
        walked = matrix @ walked
    return walked.T.reshape(maps.shape)


def walk_scipy_diagonals(maps: Array, boundary: Array, pattern: WalkPattern) -> Array:
    """Multiply map by map by one matrix of diagonals, whose loops vectorise."""
    cells, count = boundary.size, len(pattern.pairs)
    diagonals = np.zeros((2 * count + 1, cells), np.float32)
    diagonals[0] = 1
    affinities = walk_affinities(boundary, pattern)
    for k, ((first, second, _), each) in enumerate(zip(pattern.pairs, affinities, strict=True)):
        diagonals[1 + k, second] = each
        diagonals[1 + count + k, first] = each
    sums = sparse.dia_matrix((diagonals, pattern.diagonals), (cells, cells)) @ np.ones(cells)
    walked = (maps * (1 - boundary)).reshape(len(maps), -1)
    matrix = sparse.dia_matrix((diagonals, pattern.diagonals), (cells, cells))
    factors = (1 / sums).astype(np.float32)
    result = np.empty_like(walked)
    for values, out in zip(walked, result, strict=True):
        each = values
        for _ in range(256):
            each = matrix @ each
            each *= factors
        out[:] = each
    return result.reshape(maps.shape)


def walk_torch_dense(maps: Tensor, boundary: Tensor) -> Tensor:
    """Square the dense matrix of all pairs of cells eight times, as published code does."""
    cells = boundary.numel()
    flat, matrix = boundary.flatten(), torch.eye(cells)
    for first, second, path in walk_pairs((boundary.shape[0], boundary.shape[1])):
        affinities = (1 - flat[torch.from_numpy(path)].amax(0)) ** 10
        i, j = torch.from_numpy(first), torch.from_numpy(second)
        matrix[i, j] = affinities
        matrix[j, i] = affinities
    matrix /= matrix.sum(0)
    for _ in range(8):
        matrix = matrix @ matrix
    return ((maps * (1 - boundary)).flatten(1) @ matrix).reshape(maps.shape)


# --- background_map: features (D, h, w) -----------------------------------------------------------


def read_numpy(features: Sequence[Array]) -> float:
    """Read the input once, by NumPy's maximum."""
    return max(float(maps.max()) for maps in features)


def read_torch(features: Sequence[Tensor]) -> float:
    """Read the input once, by torch's maximum."""
    return max(float(maps.amax()) for maps in features)


def read_torch_sum(features: Sequence[Tensor]) -> float:
    """Read the input once, by torch's sum."""
    return sum(float(maps.sum()) for maps in features)


@numba.njit(fastmath=True)
def _sum(values: Array) -> Any:
    total = np.float32(0)
    for i in range(values.size):
        total += values[i]
    return total


def read_numba(features: Sequence[Array]) -> float:
    """Read the input once, by a vectorised sum."""
    return float(sum(_sum(maps.reshape(-1)) for maps in features))


def background_numpy(features: Sequence[Array], out: Array) -> Array:
    """Sum over the channels, add, min-max normalise."""
    np.sum(features[0], axis=0, out=out)
    for maps in features[1:]:
        out += maps.sum(axis=0)
    out -= out.min()
    out /= out.max()
    return out


def background_torch(features: Sequence[Tensor], out: Tensor) -> Tensor:
    """Sum over the channels, add, min-max normalise."""
    torch.sum(features[0], 0, out=out)
    for maps in features[1:]:
        out += maps.sum(0)
    low, high = torch.aminmax(out)
    return out.sub_(low).div_(high - low)


def background_torch_product(features: Sequence[Tensor], out: Tensor) -> Tensor:
    """Sum over the channels by products with ones: the library for matrices reads faster."""
    flat = out.view(1, -1)
    torch.mm(torch.ones(1, len(features[0])), features[0].flatten(1), out=flat)
    for maps in features[1:]:
        flat.addmm_(torch.ones(1, len(maps)), maps.flatten(1))
    low, high = torch.aminmax(out)
    return out.sub_(low).div_(high - low)


# --- subtract_classes: maps and out (C, N); all classes present -----------------------------------


def copy_three(maps: Array, present: Array, out: Array) -> Array:
    """Copy the present maps and zero the others, which is the necessary memory traffic."""
    for k, keep in enumerate(present):
        if keep:
            np.copyto(out[k], maps[k])
        else:
            out[k].fill(0)
    return out


def pairwise_torch_loop(maps: Tensor, buffer: Tensor, out: Tensor) -> Tensor:
    """Subtract class by class, in one buffer of the input's size."""
    for own, result in zip(maps, out, strict=True):
        torch.sub(own, maps, out=buffer)
        torch.sum(buffer.clamp_(min=0), 0, out=result)
    return out.div_(len(maps) - 1)


def pairwise_torch_broadcast(maps: Tensor, buffer: Tensor, out: Tensor) -> Tensor:
    """Subtract all pairs at once, in a preallocated buffer (C, C, N)."""
    torch.sub(maps[:, None], maps, out=buffer)
    torch.sum(buffer.clamp_(min=0), 1, out=out)
    return out.div_(len(maps) - 1)


def pairwise_torch_blocks(maps: Tensor, out: Tensor, block: int = 1024) -> Tensor:
    """Subtract all pairs for blocks of pixels that fit into the cache."""
    for start in range(0, maps.shape[1], block):
        own = maps[:, start : start + block]
        pairs = (own[:, None] - own).clamp_(min=0)
        torch.div(pairs.sum(1), len(maps) - 1, out=out[:, start : start + block])
    return out


def pairwise_torch_sort(maps: Tensor, out: Tensor) -> Tensor:
    """Sort the classes of every pixel: the sum over smaller values is then a cumulative sum."""
    ordered, index = torch.sort(maps, 0)
    rank = torch.arange(1, len(maps) + 1)[:, None]
    result = (ordered * rank - ordered.cumsum(0)) / (len(maps) - 1)
    return out.scatter_(0, index, result)


def strongest_torch(maps: Tensor, out: Tensor) -> Tensor:
    """Find the two largest values of every pixel: only the largest has a positive difference."""
    top, index = torch.topk(maps, 2, dim=0)
    return out.zero_().scatter_(0, index[:1], (top[:1] - top[1:]).clamp_(min=0))


def strongest_torch_loop(maps: Tensor, buffer: Tensor, out: Tensor) -> Tensor:
    """Find the two largest values by running maxima over the classes, in place."""
    first, second, smaller = buffer[:3]
    first.copy_(maps[0])
    second.fill_(-torch.inf)
    for own in maps[1:]:
        torch.minimum(first, own, out=smaller)
        torch.maximum(second, smaller, out=second)
        torch.maximum(first, own, out=first)
    # Where a class is not the largest, its difference to the second largest is not positive.
    torch.sub(maps, second, out=out).clamp_(min=0)
    return out


def _quotient(scale: Tensor) -> Tensor:
    """Return 3 / maximum, and 0 where the maximum is not positive."""
    return torch.where(scale > 0, 3 / scale, 0)


def dcsm_torch_loop(maps: Tensor, buffer: Tensor, out: Tensor) -> Tensor:
    """Subtract class by class, in one buffer of the input's size."""
    for own, result in zip(maps, out, strict=True):
        torch.sub(own, maps, out=buffer)
        scale = _quotient(buffer.amax(1, keepdim=True))
        torch.sum(buffer.clamp_(min=0).mul_(scale).tanh_(), 0, out=result)
    return out.mul_(_quotient(out.amax(1, keepdim=True))).tanh_()


def dcsm_torch_pairs(maps: Tensor, buffer: Tensor, out: Tensor) -> Tensor:
    """Subtract pair by pair: a difference is positive for one class only, so one tanh suffices."""
    out.zero_()
    difference, positive = buffer[:2]
    for c in range(len(maps)):
        for other in range(c):
            torch.sub(maps[c], maps[other], out=difference)
            low, high = torch.aminmax(difference)
            torch.clamp(difference, min=0, out=positive)
            difference.sub_(positive).mul_(_quotient(-low))
            difference.addcmul_(positive, _quotient(high)).tanh_()
            torch.clamp(difference, min=0, out=positive)
            out[c] += positive
            out[other] -= difference.sub_(positive)
    return out.mul_(_quotient(out.amax(1, keepdim=True))).tanh_()


def dcsm_torch_broadcast(maps: Tensor, buffer: Tensor, out: Tensor) -> Tensor:
    """Subtract all pairs at once, in a preallocated buffer (C, C, N)."""
    torch.sub(maps[:, None], maps, out=buffer)
    scale = _quotient(buffer.amax(2, keepdim=True))
    torch.sum(buffer.clamp_(min=0).mul_(scale).tanh_(), 1, out=out)
    return out.mul_(_quotient(out.amax(1, keepdim=True))).tanh_()


# --- superpixel_graph: labels (H, W), photo (H, W, 3) uint8 -> edges, lengths, colours, flat ------


def superpixel_graph_numpy(labels: Array, photo: Array) -> Array:
    """Sort the pairs of neighbours as one number each, and average scikit-image's colours."""
    count = labels.max() + 1
    right, down = labels[:, :-1] != labels[:, 1:], labels[:-1] != labels[1:]
    first = np.concatenate([labels[:, :-1][right], labels[:-1][down]]).astype(np.int64)
    second = np.concatenate([labels[:, 1:][right], labels[1:][down]])
    pairs = np.minimum(first, second) * count + np.maximum(first, second)
    edges, lengths = np.unique(pairs, return_counts=True)
    flat, lab = labels.ravel(), color.rgb2lab(photo).reshape(-1, 3)
    sums = np.stack([np.bincount(flat, lab[:, j], count) for j in range(3)], axis=-1)
    colours = sums / np.bincount(flat)[:, None]
    parts = [np.stack(np.divmod(edges, count), axis=-1).ravel(), lengths, colours.ravel()]
    return np.concatenate(parts)


# --- colour_evidence: soft labels (K, H, W) float32, photo (H, W, 3) uint8 -> (K - 1, H, W) -------


def colour_evidence_numpy(soft: Array, photo: Array) -> Array:
    """Count scikit-image's colours by bincount, smooth the histograms with scipy, and look up."""
    steps = color.rgb2lab(photo).astype(np.float32) * np.array([0.16, 0.125, 0.125], np.float32)
    steps += np.array([0, 8.5, 8.5], np.float32)
    bins = np.ravel_multi_index(
        tuple(np.moveaxis(steps.clip(0, 15).astype(np.intp), -1, 0)), (16, 16, 16)
    )
    counts = [np.bincount(bins.ravel(), channel.ravel(), 4096) for channel in soft]
    shares = np.stack(counts).reshape(-1, 16, 16, 16) / bins.size
    smoothed = ndimage.gaussian_filter(shares, (0, 1, 1, 1), mode="constant")
    logs = np.log(smoothed.reshape(len(soft), -1) + 5e-5)
    evidence = (logs[1:] - logs[0]).clip(-8, 8).astype(soft.dtype)
    return np.take(evidence, bins, axis=1)


# --- superpixel_walk: values (C, S), a graph of superpixels -> (C, S) -----------------------------


def graph_walk_system(graph: SuperpixelGraph) -> tuple[Any, Array]:
    """Return D - (1 - restart) W, which is symmetric, and the diagonal of D."""
    i, j = graph.edges.T
    squares = ((graph.colours[i] - graph.colours[j]) ** 2).sum(-1)
    weights = graph.edge_lengths * np.exp(squares / -200)
    count = len(graph.sizes)
    sums = np.bincount(i, weights, count) + np.bincount(j, weights, count)
    nodes = np.arange(count)
    values = np.concatenate([-0.98 * weights, -0.98 * weights, sums])
    places = np.concatenate([i, j, nodes]), np.concatenate([j, i, nodes])
    return sparse.csc_array((values, places), shape=(count, count)), sums


def graph_walk_scipy(values: Array, graph: SuperpixelGraph) -> Array:
    """Factorise, with the options for symmetric matrices of dominant diagonals."""
    matrix, sums = graph_walk_system(graph)
    factors = sparse_linalg.splu(
        matrix,
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    solution: Array = factors.solve(0.02 * (sums * values).T).T
    return solution


def graph_walk_scipy_cg(values: Array, graph: SuperpixelGraph) -> Array:
    """Iterate class by class, with the diagonal as preconditioner."""
    matrix, sums = graph_walk_system(graph)
    rows, inverse = matrix.tocsr(), sparse.diags_array(1 / sums)
    return np.stack(
        [sparse_linalg.cg(rows, 0.02 * sums * v, rtol=1e-9, M=inverse)[0] for v in values]
    )


# --- boundary_connectivity: a graph of superpixels -> (2, S) --------------------------------------


def boundary_connectivity_scipy(graph: SuperpixelGraph) -> Array:
    """Run Dijkstra's method from every superpixel, up to where similarities are below 1e-30."""
    count, border = len(graph.sizes), np.flatnonzero(graph.border_pixels)
    first, second = np.triu_indices(len(border), 1)
    inner = ~(graph.border_pixels[graph.edges] > 0).all(-1)
    i = np.concatenate([graph.edges[inner, 0], border[first]])
    j = np.concatenate([graph.edges[inner, 1], border[second]])
    steps = np.maximum(np.sqrt(((graph.colours[i] - graph.colours[j]) ** 2).sum(-1)) - 3, 0)
    matrix = sparse.csr_array((steps, (i, j)), shape=(count, count))
    distances = csgraph.dijkstra(matrix, directed=False, limit=83)
    similar = np.exp(distances**2 / -98)
    connectivity = similar @ graph.border_pixels / np.sqrt(similar @ graph.sizes)
    near = np.exp(distance.cdist(graph.centres, graph.centres, "sqeuclidean") / -0.32)
    background = (1 - np.exp(connectivity**2 / -2)) * graph.sizes
    contrast = (distance.cdist(graph.colours, graph.colours) * near) @ background
    return np.stack([connectivity, contrast / contrast.max()])
