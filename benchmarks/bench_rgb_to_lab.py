"""rgb_to_lab of a photo of 375×500."""

from __future__ import annotations

from skimage import color

import cuekit
from benchmarks import inputs
from benchmarks.harness import Case, Claim, Contender, Result, measure


def case() -> Case:
    """Compare with scikit-image."""
    photo = inputs.photo("chelsea")
    expected = color.rgb2lab(photo)
    return Case(
        "rgb_to_lab of 375×500",
        # Half a step of float32, of values up to 128.
        Contender("cuekit", lambda: cuekit.rgb_to_lab(photo), expected, 4e-6),
        [Contender("scikit-image", lambda: color.rgb2lab(photo), expected)],
        [Claim("rgb_to_lab against scikit-image", ("scikit-image",), at_least=10)],
    )


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    return [measure(case(), quick=quick)]
