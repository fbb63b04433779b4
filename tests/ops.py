"""The table of ops: every public function that takes arrays, with arguments for a batch.

Tests that hold for all ops are parametrized over it, so a new op gets all of them by one entry in
`table`. What differs between ops is a flag here.
"""

import importlib.util
import inspect
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from common import INSTALL

import cuekit


@dataclass(frozen=True)
class Op:
    """A function, its array arguments for a batch of images, and its other arguments."""

    function: object
    arguments: dict  # name of the array, as error messages have it, to array
    options: dict = field(default_factory=dict)
    # Has a CUDA kernel. Where sums run in another order there, `tolerance` bounds the difference
    # from the CPU's result, as assert_allclose takes it; without it, the bits are the same.
    cuda: bool = False
    tolerance: dict | None = None
    # Has a gradient with respect to the first array.
    gradient: bool = False
    # Runs in cuekit's compiled core, with its threads and instruction sets.
    compiled: bool = True
    # The array of a result of several that the tests look at.
    result: str | None = None
    # The optional package that it calls.
    package: str | None = None

    def __call__(self, *arrays, **options):
        """Call the function with other arrays or more options."""
        keyword_only = [
            name
            for name, parameter in self.parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        positional, keywords = [], {**self.options, **options}
        sequences = {}  # arguments that consist of arrays
        for name, array in zip(self.names, arrays, strict=True):
            if self.function is cuekit.merge_scales:
                sequences.setdefault(name.split("[")[0], []).append(array)
            elif name.endswith("].features"):
                kernel = cuekit.CRFKernel(array, 2.0 + len(sequences))
                sequences.setdefault("kernels", []).append(kernel)
            elif name in keyword_only:
                keywords[name] = array
            else:
                positional.append(array)
        if self.function is cuekit.label_masks:  # its first argument consists of arrays
            fields = dict.fromkeys(cuekit.MaskScores._fields)
            scores = [name for name in self.names if name.startswith("scores.")]
            for name in scores:
                fields[name.removeprefix("scores.")] = positional.pop(0)
            positional.insert(0, cuekit.MaskScores(**fields))
        result = self.function(*positional, **sequences, **keywords)
        return result if self.result is None else getattr(result, self.result)

    @property
    def names(self):
        return tuple(self.arguments)

    @property
    def arrays(self):
        return tuple(self.arguments.values())

    @property
    def parameters(self):
        return inspect.signature(self.function).parameters

    @property
    def threads(self):
        """Whether the function takes `threads`."""
        return "threads" in self.parameters

    @property
    def floating(self):
        """Whether the first array is floating, so that a tensor may require grad."""
        return self.arrays[0].dtype.kind == "f"


def make_inputs(images, size, seed=0):
    """Arrays of a batch of at most three images, from which ops take what they need."""
    rng = np.random.default_rng(seed)
    height, width = size
    rows, columns = np.ogrid[:height, :width]
    cams = rng.normal(size=(images, 9, *size))
    cues = rng.random((images, 17, *size)) < 0.05
    heights = np.arange(9, 9 + images)[:, None, None]
    blocks = rows // heights * (width // 9 + 1) + columns // 9
    photos = blocks[..., None] * (50, 70, 110) % 256 + rng.integers(0, 9, (*blocks.shape, 3))
    present = np.array([np.arange(9) % 2 == 0, np.arange(9) == 4, np.ones(9, dtype=bool)])
    return SimpleNamespace(
        cams=cams,
        present=present[:images],
        background=np.abs(cams[:, 0]),
        coarse_features=rng.normal(size=(images, 3, height // 2, width // 3)),
        cues=cues,
        coarse_cues=np.ascontiguousarray(cues[..., ::3, ::4]),
        coarse_cams=np.ascontiguousarray(cams[..., ::3, ::4]),
        superpixels=rng.integers(0, min(500, height * width // 9), (images, *size)),
        blocks=blocks,
        masks=rng.random((images, 6, *size)) < 0.2,
        photos=photos.clip(0, 255).astype(np.uint8),
        probabilities=rng.random((images, 9, *size), dtype=np.float32),
        scores=rng.random((images, 6, 9)),
    )


def table(inputs):
    """Every op on the arrays of `make_inputs`."""
    maps = {"cams": inputs.cams, "present": inputs.present}
    # tanh of the device's library, twice: a few units in the last place.
    two_tanh = {"rtol": 8e-15, "atol": 1e-322}
    # float64 sums in another order, of values up to 5.
    sums = {"rtol": 1e-15, "atol": 1e-12}
    # float32 sums in another order, of some hundred values up to 5.
    filters = {"rtol": 0, "atol": 1e-4}
    # float32 sums in another order, over the iterations.
    iterations = {"rtol": 0, "atol": 1e-5}
    # The CPU flushes denormals.
    walk = {"rtol": 1e-12, "atol": 1e-300}
    # Added to scores: more background.
    raised = np.float32(0.3) * (np.arange(9) == 0)[:, None, None]
    crf = {
        "probabilities": inputs.probabilities,
        "image": inputs.photos,
        "present": inputs.present[:, 1:].copy(),
    }
    return {
        "subtract_classes": Op(cuekit.subtract_classes, maps, cuda=True),
        "subtract_classes, strongest": Op(
            cuekit.subtract_classes, maps, {"mode": "strongest"}, cuda=True
        ),
        "subtract_classes, dcsm": Op(
            cuekit.subtract_classes, maps, {"mode": "dcsm"}, cuda=True, tolerance=two_tanh
        ),
        "background_map": Op(
            cuekit.background_map,
            {"features[0]": inputs.cams, "features[1]": inputs.coarse_features},
            cuda=True,
        ),
        "raw_cues": Op(
            cuekit.raw_cues,
            {"cams": inputs.cams, "background": inputs.background, "present": inputs.present},
            cuda=True,
        ),
        "raw_cues, bool background": Op(
            cuekit.raw_cues,
            {
                "cams": inputs.cams,
                "background": inputs.cues[:, 0].copy(),
                "present": inputs.present,
            },
            cuda=True,
        ),
        "superpixel_mean": Op(
            cuekit.superpixel_mean,
            {"values": inputs.cams, "superpixels": inputs.superpixels},
            cuda=True,
            tolerance=sums,
            gradient=True,
        ),
        "bilateral_filter": Op(
            cuekit.bilateral_filter,
            {"values": inputs.cams.astype(np.float32), "image": inputs.photos},
            {"sxy": 8, "srgb": 20},
            cuda=True,
            tolerance=filters,
            gradient=True,
        ),
        "bilateral_filter, normalized": Op(
            cuekit.bilateral_filter,
            {"values": inputs.probabilities, "image": inputs.photos},
            {"sxy": 30, "srgb": 13, "normalize": True},
            cuda=True,
            tolerance=filters,
            gradient=True,
        ),
        "superpixel_mean, bool": Op(
            cuekit.superpixel_mean,
            {"values": inputs.cues, "superpixels": inputs.superpixels},
            cuda=True,
        ),
        "superpixel_mean, integers": Op(
            cuekit.superpixel_mean,
            {"values": inputs.superpixels[:, None], "superpixels": inputs.blocks},
            cuda=True,
        ),
        "snap_cues": Op(
            cuekit.snap_cues, {"cues": inputs.coarse_cues, "superpixels": inputs.blocks}, cuda=True
        ),
        "snap_cues, maps": Op(
            cuekit.snap_cues,
            {"cues": inputs.coarse_cams, "superpixels": inputs.superpixels},
            cuda=True,
        ),
        # The labels 0 become -1: pixels in no superpixel.
        "superpixel_mean, no superpixel": Op(
            cuekit.superpixel_mean,
            {"values": inputs.cams, "superpixels": inputs.blocks - 1},
            cuda=True,
            tolerance=sums,
            gradient=True,
        ),
        "snap_cues, no superpixel": Op(
            cuekit.snap_cues,
            {"cues": inputs.coarse_cues, "superpixels": inputs.blocks - 1},
            cuda=True,
        ),
        "snap_cues, maps and no superpixel": Op(
            cuekit.snap_cues,
            {"cues": inputs.coarse_cams, "superpixels": inputs.superpixels - 1},
            cuda=True,
        ),
        "snap_cues, masks": Op(
            cuekit.snap_cues, {"cues": inputs.cues, "superpixels": inputs.masks}
        ),
        "snap_cues, maps and masks": Op(
            cuekit.snap_cues, {"cues": inputs.coarse_cams, "superpixels": inputs.masks}
        ),
        "snap_cues, sepl": Op(
            cuekit.snap_cues, {"cues": inputs.cams, "superpixels": inputs.masks}, {"accept": "sepl"}
        ),
        **{
            f"mask_scores, {result}": Op(
                cuekit.mask_scores,
                {"maps": inputs.coarse_cams, "masks": inputs.masks},
                cuda=True,
                tolerance=sums if "mean" in result else None,
                result=result,
            )
            for result in cuekit.MaskScores._fields
        },
        "mask_scores, maps of the same size": Op(
            cuekit.mask_scores,
            {"maps": inputs.cams.astype(np.float32), "masks": inputs.masks},
            cuda=True,
            tolerance=sums,
            result="top_mean",
        ),
        "mask_scores, bool": Op(
            cuekit.mask_scores,
            {"maps": inputs.coarse_cues, "masks": inputs.masks},
            cuda=True,
            result="top_mean",
        ),
        "label_masks": Op(
            cuekit.label_masks,
            {
                "scores.top_mean": inputs.scores,
                "present": inputs.present,
                "claims": inputs.superpixels[:, 0, :6] % 10,
            },
            {"accept": 0.8, "reject": 0.7},
            compiled=False,
        ),
        "label_masks, sepl": Op(
            cuekit.label_masks,
            {
                "scores.inside": inputs.scores,
                "scores.covered": inputs.scores[:, ::-1].copy(),
                "present": inputs.present,
            },
            {"rule": "sepl"},
            compiled=False,
        ),
        "label_masks, fma": Op(
            cuekit.label_masks,
            {"scores.mean": inputs.scores, "present": inputs.present},
            {"rule": "fma"},
            compiled=False,
        ),
        "fuse_cues": Op(
            cuekit.fuse_cues,
            {"cue_sets[0]": inputs.cues, "cue_sets[1]": np.roll(inputs.cues, 1, axis=-3)},
            cuda=True,
        ),
        "resize_cues": Op(
            cuekit.resize_cues, {"cues": inputs.cues}, {"size": (70, 50), "rule": "half"}, cuda=True
        ),
        "cues_to_labels": Op(cuekit.cues_to_labels, {"cues": inputs.cues}, cuda=True),
        "with_background": Op(
            cuekit.with_background, {"maps": inputs.probabilities}, {"alpha": 4}, compiled=False
        ),
        "colour_evidence": Op(
            cuekit.colour_evidence,
            {
                "probabilities": inputs.probabilities,
                "image": inputs.photos,
                "superpixels": inputs.blocks,
            },
        ),
        "confident_labels": Op(
            cuekit.confident_labels,
            {"high": inputs.blocks // 3 % 4, "low": inputs.blocks % 7},
            compiled=False,
        ),
        "confident_labels, scores": Op(
            cuekit.confident_labels,
            {"high": inputs.probabilities + raised, "low": inputs.probabilities},
            compiled=False,
        ),
        "probabilities_to_labels": Op(
            cuekit.probabilities_to_labels,
            {"probabilities": inputs.probabilities, "present": inputs.present[:, 1:].copy()},
            {"confidence": 0.6},
            compiled=False,
        ),
        "resize_maps": Op(
            cuekit.resize_maps, {"maps": inputs.cams}, {"size": (70, 50)}, compiled=False
        ),
        "merge_scales": Op(
            cuekit.merge_scales,
            {
                "maps[0]": inputs.cams,
                "maps[1]": inputs.coarse_cams,
                "flipped[0]": inputs.cams[:, ::-1].copy(),
                "flipped[1]": inputs.coarse_cams[:, ::-1].copy(),
            },
            compiled=False,
        ),
        "sepl_labels": Op(
            cuekit.sepl_labels, {"labels": inputs.blocks, "masks": inputs.masks}, compiled=False
        ),
        "suppress_absent": Op(
            cuekit.suppress_absent,
            {"scores": inputs.cams, "present": inputs.present[:, 1:].copy()},
            cuda=True,
            gradient=True,
        ),
        "refine_local": Op(
            cuekit.refine_local,
            {"maps": inputs.coarse_cams, "image": inputs.photos},
            {"iterations": 3},
            cuda=True,
        ),
        "refine_local, pamr": Op(
            cuekit.refine_local,
            {"maps": inputs.probabilities, "image": inputs.photos},
            {"preset": "pamr", "dilations": (1, 9), "iterations": 2},
            cuda=True,
        ),
        "rgb_to_lab": Op(cuekit.rgb_to_lab, {"image": inputs.photos}),
        "felzenszwalb": Op(cuekit.felzenszwalb, {"image": inputs.photos}),
        "slic": Op(cuekit.slic, {"image": inputs.photos}, compiled=False, package="skimage"),
        "dense_crf": Op(
            cuekit.dense_crf,
            {"probabilities": inputs.probabilities, "image": inputs.photos},
            {"iterations": 2},
            cuda=True,
            tolerance=iterations,
        ),
        "dense_crf, present": Op(
            cuekit.dense_crf,
            crf,
            {"params": "irn", "unary": "energies", "iterations": 2},
            cuda=True,
            tolerance=iterations,
        ),
        "dense_crf, gray": Op(
            cuekit.dense_crf,
            {"probabilities": inputs.probabilities, "image": inputs.photos[..., 0].copy()},
            {"iterations": 2},
            cuda=True,
            tolerance=iterations,
        ),
        "dense_crf_features": Op(
            cuekit.dense_crf_features,
            {
                "probabilities": inputs.probabilities[:, :, 0].copy(),
                "kernels[0].features": inputs.cams[:, :3, 0].astype(np.float32),
                "kernels[1].features": inputs.cams[:, 3, :2].astype(np.float32),
                "present": inputs.present[:, 1:].copy(),
            },
            {"iterations": 2},
            cuda=True,
            tolerance=iterations,
        ),
        "labels_to_probabilities": Op(
            cuekit.labels_to_probabilities,
            {"labels": inputs.blocks},
            {"num_classes": int(inputs.blocks.max()) + 2},
            compiled=False,
        ),
        "random_walk": Op(
            cuekit.random_walk,
            {"maps": inputs.cams, "boundary": inputs.probabilities[:, 0].copy()},
            {"steps": 3},
            cuda=True,
            tolerance=walk,
        ),
        "random_walk, affinities": Op(
            cuekit.random_walk,
            {"maps": inputs.cams, "affinities": inputs.probabilities[:, :4].copy()},
            {"radius": 2, "steps": 3},
            cuda=True,
            tolerance=walk,
        ),
        "photo_boundary": Op(
            cuekit.photo_boundary, {"image": inputs.photos, "superpixels": inputs.blocks}
        ),
    }


OPS = table(make_inputs(2, (23, 31)))

# Functions of the graph of one photo, which take no batch: graphs of several differ in size. What
# holds for the others is tested in the files of these.
ON_GRAPHS = {cuekit.boundary_connectivity, cuekit.superpixel_graph, cuekit.superpixel_walk}


def marks(op):
    """Skip what calls a package that is missing."""
    missing = op.package is not None and importlib.util.find_spec(op.package) is None
    reason = missing and f"needs {op.package}: pip install {INSTALL[op.package]}"
    return [pytest.mark.skip(reason=reason)] if missing else []


def every(chosen=lambda _: True):
    """Parametrize a test over the ops that `chosen` is true for."""
    ops = [pytest.param(op, id=name, marks=marks(op)) for name, op in OPS.items() if chosen(op)]
    return pytest.mark.parametrize("op", ops)


def every_argument(chosen=lambda _: True):
    """Parametrize a test over the array arguments of the ops that `chosen` is true for."""
    arguments = [
        pytest.param(op, index, id=f"{name}-{argument}", marks=marks(op))
        for name, op in OPS.items()
        if chosen(op)
        for index, argument in enumerate(op.names)
    ]
    return pytest.mark.parametrize(("op", "index"), arguments)
