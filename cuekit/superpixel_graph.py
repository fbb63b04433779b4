"""The graph of superpixels: which ones touch, and what each one is."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from cuekit._arrays import flat, like
from cuekit._backend import cpu_kernels
from cuekit._checks import (
    FLOATS,
    INTEGERS,
    check_array,
    check_finite,
    check_number,
    check_pixels,
    check_shape,
    check_threads,
)
from cuekit._device import AnyFramework, Array
from cuekit.rgb_to_lab import check_rgb

MAP_DTYPES = (*FLOATS, *INTEGERS, "bool")


class SuperpixelGraph(NamedTuple):
    """What `superpixel_graph` returns: a named tuple of arrays, or of tensors.

    The S superpixels are numbered from 0 in the ascending order of their labels, so labels without
    gaps, such as those of `felzenszwalb`, are the numbers.

    Parameters
    ----------
    superpixels : (H, W) int32
        The number of each pixel's superpixel; -1 in no superpixel.
    labels : (S,) int64
        The label of each superpixel in the map that was given.
    edges : (E, 2) int32
        The pairs i < j of superpixels that touch: with pixels side by side or one below the other.
        Sorted by i, then by j.
    edge_lengths : (E,) int64
        The length of each common border: the number of such pairs of pixels.
    sizes : (S,) int64
        The number of pixels.
    border_pixels : (S,) int64
        How many of them are at the image's border.
    centres : (S, 2) float64
        The mean position (y, x) of the pixels' centres, from 0 to 1 over the height and the width.
    colours : (S, 3) float64, or None
        The mean colour in L*a*b*; None without a photo.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> graph = cuekit.superpixel_graph(np.array([[0, 0, 7], [0, 7, 7]]))
    >>> graph.labels, graph.edges.tolist(), graph.edge_lengths
    (array([0, 7]), [[0, 1]], array([3]))
    >>> values = graph.mean(np.array([[[1.0, 2.0, 3.0], [6.0, 5.0, 4.0]]]))
    >>> values
    array([[3., 4.]])
    >>> graph.paint(values)
    array([[[3., 3., 4.],
            [3., 4., 4.]]])
    """

    superpixels: Any
    labels: Any
    edges: Any
    edge_lengths: Any
    sizes: Any
    border_pixels: Any
    centres: Any
    colours: Any

    def mean(self, values: AnyFramework, *, threads: int | None = 1) -> AnyFramework:
        """Average maps over superpixels.

        Parameters
        ----------
        values : (..., H, W) array or tensor, floating, integer or bool
            Maps.
        threads : int or None, optional
            Number of threads; None means one per core. The result does not depend on it.

        Returns
        -------
        (..., S) array or tensor
            Of the dtype of floating `values`; float32 for integers and bool. These are the values
            that `superpixel_mean` paints.

        Raises
        ------
        TypeError, ValueError
            If values have the wrong type, dtype or shape, or are not finite.
        """
        labels: Array = _superpixels_of(self)
        maps: Array = check_array(values, "values", MAP_DTYPES, ndim=2, layout="(..., H, W)")
        threads = check_threads(threads)
        batch: tuple[int, ...] = maps.shape[:-2]
        check_shape(maps, "values", (*batch, *labels.shape), "superpixels")
        count, dtype = len(self.sizes), maps.dtype if maps.dtype.kind == "f" else np.float32
        out = np.zeros((*batch, count), dtype)
        channels = math.prod(batch)
        if out.size:
            finite = cpu_kernels.superpixel_table(
                flat(maps, channels, *labels.shape), labels, out.reshape(channels, count), threads
            )
            check_finite(finite, ("values", maps))
        return like(out, values)

    def paint(self, values: AnyFramework, *, outside: float = 0) -> AnyFramework:
        """Give every pixel the value of its superpixel.

        Parameters
        ----------
        values : (..., S) array or tensor, floating, integer or bool
            A value for each superpixel.
        outside : float, optional
            The value of pixels in no superpixel.

        Returns
        -------
        (..., H, W) array or tensor of the dtype of `values`

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, dtype or shape.
        """
        labels: Array = _superpixels_of(self)
        table: Array = check_array(values, "values", MAP_DTYPES, ndim=1, layout="(..., S)")
        check_shape(table, "values", (*table.shape[:-1], len(self.sizes)), "graph")
        beyond = np.full((*table.shape[:-1], 1), check_number(outside, "outside"), table.dtype)
        # The label -1 is the last entry.
        painted: Array = np.take(np.concatenate([table, beyond], axis=-1), labels, axis=-1)
        return like(painted, values)


def _superpixels_of(graph: SuperpixelGraph) -> Array:
    return check_array(graph.superpixels, "superpixels", ("int32",), ndim=2, layout="(H, W)")


def check_graph(graph: Any) -> SuperpixelGraph:
    """Return a graph with colours, its fields but `superpixels` as contiguous arrays on the CPU.

    Fields may have been replaced by the caller: features of other kinds as `colours`, say. Kernels
    check the edges.
    """
    if not isinstance(graph, SuperpixelGraph):
        raise TypeError(f"graph must be SuperpixelGraph, got {type(graph).__name__}")
    if graph.colours is None:
        raise ValueError("graph must have colours, got None: pass the photo to superpixel_graph")
    layouts = {
        "labels": ("int64", "(S,)"),
        "edges": ("int32", "(E, 2)"),
        "edge_lengths": ("int64", "(E,)"),
        "sizes": ("int64", "(S,)"),
        "border_pixels": ("int64", "(S,)"),
        "centres": ("float64", "(S, 2)"),
        "colours": ("float64", "(S, D)"),
    }
    fields = {
        name: check_array(
            getattr(graph, name),
            f"graph.{name}",
            (dtype,),
            ndim=2 if " " in layout else 1,
            layout=layout,
        )
        for name, (dtype, layout) in layouts.items()
    }
    count, edge_count = len(fields["sizes"]), len(fields["edges"])
    sides = {"S": count, "E": edge_count, "2": 2, "D": fields["colours"].shape[-1]}
    for name, (_, layout) in layouts.items():
        shape = tuple(sides[side] for side in layout.strip("(),").split(", "))
        check_shape(fields[name], f"graph.{name}", shape, "the other fields")
    for name, least in (("edge_lengths", 1), ("sizes", 1), ("border_pixels", 0)):
        if (fields[name] < least).any():
            raise ValueError(f"graph.{name} must be at least {least}, got {fields[name].min()}")
    for name in ("centres", "colours"):
        array = fields[name]
        check_finite(bool(np.isfinite(array).all()), (f"graph.{name}", array))
    return graph._replace(**{name: flat(each, *each.shape) for name, each in fields.items()})


def superpixel_graph(superpixels: AnyFramework, image: Any = None) -> SuperpixelGraph:
    """Find which superpixels of a photo touch, and size, place and colour of each.

    Parameters
    ----------
    superpixels : (H, W) array or tensor of any integer dtype
        Labels from 0 to 2**31 - 1; they need not be consecutive, nor need the pixels of a label be
        connected. A pixel with label -1 is in no superpixel.
    image : (H, W, 3) array or tensor of uint8, optional
        The photo, for the mean colours, which `superpixel_walk` and `boundary_connectivity` need.

    Returns
    -------
    SuperpixelGraph
        In the framework of `superpixels`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype or shape, or labels are below -1 or too large.

    Notes
    -----
    It takes one photo: graphs of several have different sizes. The labels are read once, as runs
    within rows. Memory is some 5 bytes per pixel for the superpixels of photos, and at most some
    210, where each pixel is a superpixel of its own; it does not depend on the labels' values.
    Called in the main thread, it runs signal handlers while it computes, so Ctrl-C ends it. There
    is no kernel for CUDA devices.

    Examples
    --------
    >>> import numpy as np
    >>> import cuekit
    >>> photo = np.array([[[0, 0, 0], [0, 0, 0], [255, 255, 255]]], dtype=np.uint8)
    >>> graph = cuekit.superpixel_graph(np.array([[0, 0, 1]]), photo)
    >>> graph.sizes, graph.colours.round(1)[:, 0]
    (array([2, 1]), array([  0., 100.]))
    """
    given = check_array(superpixels, "superpixels", INTEGERS, ndim=2, layout="(H, W)")
    if given.ndim > 2:
        raise ValueError(
            f"superpixels must have shape (H, W), got {given.shape}: a graph is of one photo"
        )
    check_pixels(given, "superpixels")
    height, width = given.shape
    photo = None if image is None else check_rgb(image)
    if photo is not None:
        check_shape(photo, "image", (height, width, 3), "superpixels")
    # Memory that is never written is never used: most of these arrays.
    room = max(height * (width - 1) + width * (height - 1), 0)
    labels = np.empty((height, width), np.int32)
    counts = np.zeros(2, np.int64)
    edges, lengths = np.empty((room, 2), np.int32), np.empty(room, np.int64)
    nodes = np.empty((height * width, 5), np.int64)
    if given.size:
        cpu_kernels.superpixel_graph(
            flat(given, 1, height, width), labels, counts, edges, lengths, nodes, 1
        )
    count, edge_count = counts.tolist()
    first, sizes, border, rows, columns = nodes[:count].T.copy()
    colours = None
    if photo is not None:
        colours = np.zeros((count, 3))
        if count:
            cpu_kernels.superpixel_colours(flat(photo, height, width, 3), labels, colours, 1)
    centres = (np.stack([rows, columns], axis=-1) / sizes[:, None] + 0.5) / (height, width)
    fields: list[Array] = [
        labels,
        given[first // max(width, 1), first % max(width, 1)].astype(np.int64),
        edges[:edge_count].copy(),
        lengths[:edge_count].copy(),
        sizes.copy(),
        border.copy(),
        centres if given.size else np.zeros((0, 2)),
    ]
    mean_colours = None if colours is None else like(colours, superpixels)
    return SuperpixelGraph._make([*(like(field, superpixels) for field in fields), mean_colours])
