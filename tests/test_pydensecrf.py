"""`cuekit.compat.pydensecrf` against pydensecrf itself: each test makes the same calls of both.

Mean field amplifies rounding, so after all iterations labels are compared, and Q but for a few
pixels. Sizes are multiples of 4, because pydensecrf appends points otherwise.
"""

import importlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
from common import ROOT, needs

import cuekit
from cuekit import reference

WIDTH, HEIGHT, LABELS = 76, 60, 5
SIZE = (HEIGHT, WIDTH)


def modules(name):
    package = needs("pydensecrf.densecrf") and name
    return SimpleNamespace(
        dcrf=importlib.import_module(f"{package}.densecrf"),
        utils=importlib.import_module(f"{package}.utils"),
    )


@pytest.fixture(scope="module")
def theirs():
    return modules("pydensecrf")


@pytest.fixture(scope="module")
def ours():
    return modules("cuekit.compat.pydensecrf")


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(needs("skimage.data").chelsea()[60:120, 90:166])


@pytest.fixture(scope="module")
def softmax():
    grid = 2 * np.random.default_rng(0).normal(size=(LABELS, 6, 8))
    return reference.softmax(reference.resize_bilinear(grid, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def volume():
    """Cells in noise, 12 x 24 x 28, and rough probabilities of them."""
    rng = np.random.default_rng(2)
    z, y, x = np.indices((12, 24, 28))
    cells = ((z - 6) ** 2 + (y - 12) ** 2 / 4 + (x - 14) ** 2 / 4 < 25).astype(float)
    values = (cells * 80 + rng.normal(size=cells.shape) * 12 + 60).clip(0, 255)
    rough = reference.softmax(np.stack([1 - cells, cells]) + rng.normal(size=(2, *cells.shape)))
    return values.astype(np.float32), rough.astype(np.float32)


def labelled(softmax):
    """Labels 1 to 5, and 0 for what is not known."""
    sure = softmax.max(0) > 0.5
    return np.where(sure, softmax.argmax(0) + 1, 0)


# Each of these is a script: modules and data in, Q out.


def rgb(m, data, iterations=5):
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnaryEnergy(m.utils.unary_from_softmax(data.softmax))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=80, srgb=13, rgbim=data.photo, compat=10)
    return d.inference(iterations)


def readme(m, data):
    """All arguments, as pydensecrf's README writes them."""
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnary(m.dcrf.ConstUnary(m.utils.unary_from_softmax(data.softmax)))
    options = {"kernel": m.dcrf.DIAG_KERNEL, "normalization": m.dcrf.NORMALIZE_SYMMETRIC}
    d.addPairwiseGaussian(sxy=(3, 3), compat=3, **options)
    d.addPairwiseBilateral(sxy=(80, 80), srgb=(13, 13, 13), rgbim=data.photo, compat=10, **options)
    return d.inference(5)


def inference_example(m, data):
    """The class for points, and functions that make features, from hard labels."""
    d = m.dcrf.DenseCRF(WIDTH * HEIGHT, LABELS)
    d.setUnaryEnergy(m.utils.unary_from_labels(data.labels, LABELS, gt_prob=0.7))
    features = m.utils.create_pairwise_gaussian(sdims=(3, 3), shape=data.photo.shape[:2])
    options = {"kernel": m.dcrf.DIAG_KERNEL, "normalization": m.dcrf.NORMALIZE_SYMMETRIC}
    d.addPairwiseEnergy(features, compat=3, **options)
    features = m.utils.create_pairwise_bilateral(
        sdims=(80, 80), schan=(13, 13, 13), img=data.photo, chdim=2
    )
    d.addPairwiseEnergy(features, compat=10, **options)
    return d.inference(5)


def irn(m, data):
    """Hard labels, contiguous copies."""
    h, w = data.photo.shape[:2]
    d = m.dcrf.DenseCRF2D(w, h, LABELS)
    labels = data.softmax.argmax(0)
    unary = m.utils.unary_from_labels(labels, LABELS, gt_prob=0.7, zero_unsure=False)
    d.setUnaryEnergy(np.ascontiguousarray(unary))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(
        sxy=50, srgb=5, rgbim=np.ascontiguousarray(np.copy(data.photo)), compat=10
    )
    return d.inference(10)


def clip_es(m, data):
    """As DeepLab's scripts: a class with parameters, energies of probabilities."""
    unary = np.ascontiguousarray(m.utils.unary_from_softmax(data.softmax))
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=1, compat=3)
    d.addPairwiseBilateral(sxy=67, srgb=3, rgbim=data.photo, compat=4)
    return d.inference(10)


def widths_that_differ(m, data):
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnaryEnergy(m.utils.unary_from_softmax(data.softmax, scale=0.8, clip=None))
    d.addPairwiseGaussian(sxy=(2, 5), compat=3)
    d.addPairwiseBilateral(sxy=(60, 20), srgb=(7, 13, 20), rgbim=data.photo, compat=10)
    return d.inference(5)


def gray(m, data):
    """One channel without an axis: a lattice of three dimensions."""
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnaryEnergy(m.utils.unary_from_softmax(data.softmax))
    d.addPairwiseGaussian(sxy=3, compat=3)
    features = m.utils.create_pairwise_bilateral((40, 40), (13,), data.photo[..., 1])
    d.addPairwiseEnergy(features, compat=10)
    return d.inference(5)


def bands(m, data):
    """Channels first, in floats."""
    image = np.concatenate([data.photo, data.photo[::-1, :, :2]], 2).transpose(2, 0, 1) / 255
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnaryEnergy(m.utils.unary_from_softmax(data.softmax))
    features = m.utils.create_pairwise_bilateral((40, 40), 0.1, image.astype(np.float32), chdim=0)
    d.addPairwiseEnergy(features, compat=10)
    return d.inference(5)


def volumes(m, data):
    values, rough = data.volume
    d = m.dcrf.DenseCRF(values.size, 2)
    d.setUnaryEnergy(m.utils.unary_from_softmax(rough))
    d.addPairwiseEnergy(m.utils.create_pairwise_gaussian((1, 2, 2), values.shape), compat=3)
    d.addPairwiseEnergy(m.utils.create_pairwise_bilateral((4, 8, 8), (20,), values), compat=5)
    return d.inference(5)


def weights_per_class(m, data):
    """In pydensecrf these are penalties of equal classes, so that negative ones attract."""
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnaryEnergy(m.utils.unary_from_softmax(data.softmax))
    d.addPairwiseGaussian(sxy=3, compat=-np.arange(1, LABELS + 1, dtype=np.float32))
    d.addPairwiseBilateral(sxy=50, srgb=13, rgbim=data.photo, compat=4)
    return d.inference(5)


def matrix(m, data):
    rng = np.random.default_rng(0)
    table = (3 * (1 - np.eye(LABELS)) + rng.random((LABELS, LABELS))).astype(np.float32)
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnaryEnergy(m.utils.unary_from_softmax(data.softmax))
    d.addPairwiseBilateral(sxy=50, srgb=13, rgbim=data.photo, compat=table)
    return d.inference(5)


def normalised(name, m, data):
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnaryEnergy(m.utils.unary_from_softmax(data.softmax))
    how = getattr(m.dcrf, name)
    d.addPairwiseGaussian(sxy=3, compat=2, normalization=how)
    d.addPairwiseBilateral(sxy=30, srgb=13, rgbim=data.photo, compat=2, normalization=how)
    return d.inference(3)


def none(m, data):
    return normalised("NO_NORMALIZATION", m, data)


def before(m, data):
    return normalised("NORMALIZE_BEFORE", m, data)


def after(m, data):
    return normalised("NORMALIZE_AFTER", m, data)


def step_by_step(m, data):
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnaryEnergy(m.utils.unary_from_softmax(data.softmax))
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=80, srgb=13, rgbim=data.photo, compat=10)
    q, tmp1, tmp2 = d.startInference()
    data.divergences.append([])
    for _ in range(5):
        data.divergences[-1].append(d.klDivergence(q))
        d.stepInference(q, tmp1, tmp2)
    return q


def logistic(m, data):  # noqa: ARG001 - as all of these
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(LABELS, 4)).astype(np.float32)
    features = rng.normal(size=(4, WIDTH * HEIGHT)).astype(np.float32)
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.setUnary(m.dcrf.LogisticUnary(weights, features))
    d.addPairwiseGaussian(sxy=3, compat=3, kernel=m.dcrf.FULL_KERNEL)
    return d.inference(5)


def no_unary(m, data):  # noqa: ARG001 - as all of these
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    d.addPairwiseGaussian(sxy=3, compat=3)
    return d.inference(5)


def one_label(m, data):
    d = m.dcrf.DenseCRF2D(WIDTH, HEIGHT, 1)
    d.setUnaryEnergy(m.utils.unary_from_softmax(data.softmax[:1]))
    d.addPairwiseGaussian(sxy=3, compat=3)
    return d.inference(5)


SCRIPTS = (
    rgb,
    readme,
    inference_example,
    irn,
    clip_es,
    widths_that_differ,
    gray,
    bands,
    volumes,
    weights_per_class,
    matrix,
    none,
    before,
    after,
    step_by_step,
    logistic,
    no_unary,
    one_label,
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_same_script(script, theirs, ours, photo, softmax, volume, figures):
    data = SimpleNamespace(photo=photo, softmax=softmax, volume=volume, divergences=[])
    data.labels = labelled(softmax)
    expected, result = (np.array(script(m, data)) for m in (theirs, ours))
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    difference = np.abs(result - expected)
    differ = int((result.argmax(0) != expected.argmax(0)).sum())
    figures.append(
        f"pydensecrf, {script.__name__}: {differ} of {result.shape[1]} labels differ, "
        f"max |dQ| {difference.max():.1e}"
    )
    assert differ <= 2
    assert np.quantile(difference, 0.999) < 1e-3
    if data.divergences:
        # Sums of float32 in pydensecrf, over 20 000 values.
        np.testing.assert_allclose(*data.divergences, rtol=1e-3)


def test_the_page_has_a_row_for_each_script():
    page = (ROOT / "docs" / "pydensecrf.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| 0 \| [\d.e-]+ \|$", page, re.MULTILINE)
    assert rows == [script.__name__ for script in SCRIPTS]


@pytest.mark.parametrize("zero_unsure", [True, False])
def test_utils(zero_unsure, theirs, ours, softmax, photo):
    labels = labelled(softmax) if zero_unsure else softmax.argmax(0)
    of_labels = [
        m.utils.unary_from_labels(labels, LABELS, 0.6, zero_unsure=zero_unsure)
        for m in (theirs, ours)
    ]
    np.testing.assert_allclose(*of_labels, rtol=1e-6)
    for options in ({}, {"scale": 0.5}, {"clip": 0.1}, {"scale": 1, "clip": None}):
        for dtype in (np.float16, np.float32, np.float64):
            values = softmax.astype(dtype).clip(1e-3)
            pair = [m.utils.unary_from_softmax(values, **options) for m in (theirs, ours)]
            assert pair[1].dtype == np.float32
            np.testing.assert_allclose(*pair, rtol=1e-6, atol=1e-7)
    for sdims, shape in (((3,), (7,)), ((3, 0.5), (4, 5)), ((1, 2, 3), (4, 5, 6))):
        pair = [m.utils.create_pairwise_gaussian(sdims, shape) for m in (theirs, ours)]
        np.testing.assert_array_equal(*pair)
    for schan, image, chdim in (
        (13, photo, 2),
        ((3, 5, 7), photo, 2),
        ((3, 5, 7), photo.transpose(2, 0, 1), 0),
        ((9,), photo[..., 0], -1),
        (0.2, np.random.default_rng(0).random((4, 5, 6)), -1),
        ((2, 3), np.random.default_rng(0).random((4, 5, 6, 2)), 3),
    ):
        sdims = (4, 5, 6)[: image.ndim - (chdim != -1)]
        pair = [
            m.utils.create_pairwise_bilateral(sdims, schan, image, chdim) for m in (theirs, ours)
        ]
        np.testing.assert_array_equal(*pair)


def test_former_names(ours, softmax):
    labels = labelled(softmax)
    with pytest.warns(DeprecationWarning, match="unary_from_labels"):
        former = ours.utils.compute_unary(labels, LABELS, GT_PROB=0.7)
    np.testing.assert_array_equal(former, ours.utils.unary_from_labels(labels, LABELS, 0.7))
    with pytest.warns(DeprecationWarning, match="unary_from_softmax"):
        former = ours.utils.softmax_to_unary(softmax, GT_PROB=0.5)
    expected = ours.utils.unary_from_softmax(softmax, scale=0.5, clip=None)
    np.testing.assert_array_equal(former, expected)


def test_all_public_names_are_there(theirs, ours):
    for module in ("dcrf", "utils"):
        names = {name for name in vars(getattr(theirs, module)) if not name.startswith("_")}
        names -= {"Number", "np", "warning", "eigen"}  # their imports
        assert names <= set(vars(getattr(ours, module)))
    for name in ("NO_NORMALIZATION", "NORMALIZE_AFTER", "CONST_KERNEL", "FULL_KERNEL"):
        assert getattr(ours.dcrf, name) == int(getattr(theirs.dcrf, name))


def test_the_common_case_is_the_fast_kernel(ours, photo, softmax):
    """The bits of dense_crf, whatever the order of the calls; other models are those of points."""
    data = SimpleNamespace(photo=photo, softmax=softmax)
    energies = ours.utils.unary_from_softmax(softmax).reshape(softmax.shape)
    params = cuekit.CRFParams(3, 3, 10, 80, 13)
    expected = cuekit.dense_crf(energies, photo, params, unary="energies", iterations=5)
    np.testing.assert_array_equal(rgb(ours, data).reshape(softmax.shape), expected)


def test_energies_of_any_layout(ours, softmax):
    """pydensecrf refuses float64 and memory that is not C-contiguous."""
    unary = ours.utils.unary_from_softmax(softmax)
    results = []
    for energies in (unary, unary.astype(np.float64), np.asfortranarray(unary)):
        d = ours.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
        d.setUnaryEnergy(energies)
        d.addPairwiseGaussian(sxy=3, compat=3)
        results.append(d.inference(2))
        d.threads = 2
        np.testing.assert_array_equal(d.inference(2), results[0])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_the_page_runs(photo, softmax, volume):
    """The blocks of docs/pydensecrf.md, one after the other."""
    page = (ROOT / "docs" / "pydensecrf.md").read_text(encoding="utf-8")
    values, rough = volume
    names = {"cuekit": cuekit, "photo": photo, "probabilities": softmax}
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for block in blocks[:2]:
        exec(block, names)  # noqa: S102
    assert names["labels"].shape == SIZE
    names |= {"volume": values, "probabilities": rough, "K": len(rough)}
    exec(blocks[2], names)  # noqa: S102
    assert names["labels"].shape == values.shape
    assert len(blocks) == 3


def test_errors(ours, photo):
    d = ours.dcrf.DenseCRF2D(WIDTH, HEIGHT, LABELS)
    pixels = WIDTH * HEIGHT
    for call, message in (
        (lambda: ours.dcrf.DenseCRF(0, 2), "nvar must be at least 1, got 0"),
        (
            lambda: d.setUnaryEnergy(np.zeros((2, pixels))),
            f"the unary must have shape (5, {pixels}), got (2, {pixels})",
        ),
        (
            lambda: d.setUnaryEnergy(np.full((5, pixels), np.nan)),
            "the unary must hold energies that are finite or +inf, got others",
        ),
        (
            lambda: d.addPairwiseEnergy(np.zeros((2, 7)), 3),
            f"features must have shape (D, {pixels}), got (2, 7)",
        ),
        (
            lambda: d.addPairwiseGaussian(sxy=3, compat=np.ones(4)),
            "compat must be a number, (5,) or (5, 5), got shape (4,)",
        ),
        (
            lambda: d.addPairwiseGaussian(sxy=0, compat=3),
            "sxy must be a positive number or 2 of them, got 0",
        ),
        (
            lambda: d.addPairwiseBilateral(80, 13, photo.transpose(1, 0, 2), 10),
            f"rgbim must be uint8 of shape {(HEIGHT, WIDTH, 3)}, got uint8 of shape "
            f"{(WIDTH, HEIGHT, 3)}: for others, utils.create_pairwise_bilateral makes the features",
        ),
        (
            lambda: ours.utils.unary_from_labels(np.array([0, 6]), 5, 0.7),
            "labels must be from 0 to 5, got 0 to 6",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()
