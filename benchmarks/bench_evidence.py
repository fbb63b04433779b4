"""The recipe evidence: three classes on photos, beside dense_crf of its soft labels, and psa."""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np

import cuekit
from benchmarks import inputs
from benchmarks.harness import Case, Claim, Contender, Result, measure
from cuekit import recipes
from cuekit.crf import PhotoCRF
from cuekit.io import Maps

PHOTOS = 20
GRID = (24, 32)


def maps_of_two(seed: int) -> list[Maps]:
    """Return maps and features as two classifiers give them: smooth, and mostly low."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(2):
        coarse = cuekit.resize_maps(rng.random((5, 5, 7), np.float32) ** 2, GRID)
        ids = np.array([8, 12, 15])
        found.append(Maps(coarse[:3], ids, None, "cuekit", features=coarse[3:]))
    return found


def case() -> Case:
    """Compare with `dense_crf` of all soft labels that the recipe makes, and with psa.

    The recipe has a lattice for each photo, `dense_crf` one for each call, two per photo.
    """
    natural = [each for each in inputs.natural_photos(2 * PHOTOS) if each.shape[:2] == inputs.SIZE]
    photos = natural[:PHOTOS] or [inputs.photo(name) for name in ("chelsea", "coffee", "rocket")]
    sets = [maps_of_two(seed) for seed in range(len(photos))]
    calls = []

    class Noting(PhotoCRF):
        def __call__(self, probabilities: np.ndarray, iterations: int) -> np.ndarray:
            calls.append((probabilities, self._photo, self._params, iterations))
            return super().__call__(probabilities, iterations)

    with mock.patch.object(sys.modules["cuekit.recipes.evidence"], "PhotoCRF", Noting):
        expected = [recipes.evidence(*each) for each in zip(photos, sets, strict=True)]

    def crfs() -> list[np.ndarray]:
        return [
            cuekit.dense_crf(soft, photo, params, iterations=iterations)
            for soft, photo, params, iterations in calls
        ]

    def labels(recipe: str) -> list[np.ndarray]:
        options = {"normalize": True} if recipe == "psa" else {}
        function = recipes.RECIPES[recipe]
        return [function(*each, **options) for each in zip(photos, sets, strict=True)]

    title = f"recipe evidence, 3 classes, {len(photos)} photos of 375×500"
    return Case(
        title,
        Contender("cuekit", lambda: labels("evidence"), expected),
        [
            Contender("dense_crf alone", crfs, crfs()),
            Contender("recipe psa", lambda: labels("psa"), labels("psa")),
        ],
        [Claim(f"{title}, to dense_crf alone", ("dense_crf alone",), at_most=1.35)],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case(), quick=quick)]
