"""felzenszwalb on photos at their own size: time, memory, and time per pixel of a large photo."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

import cuekit
from benchmarks import inputs, peers
from benchmarks.harness import (
    QUICK_ROUNDS,
    Claim,
    Contender,
    Result,
    Row,
    Verdict,
    bound,
    compare,
    judge,
    peak_bytes,
    seconds,
)

SETTING: dict[str, Any] = {"scale": 200, "sigma": 0.8, "min_size": 60}
MEMORY_SIZE = (1500, 2000)
LARGE_SIZE = (4000, 6000)
MEMORY_SETUP = """
import numpy as np
{setup}
photo = np.random.default_rng(0).integers(0, 256, (*{size}, 3), np.uint8)
segment(photo[:50, :50])
def call():
    return segment(photo)
"""
OURS = """
import cuekit
segment = cuekit.felzenszwalb
"""
SCIKIT_IMAGE = """
from skimage.segmentation import felzenszwalb
def segment(photo):
    return felzenszwalb(photo, 200, 0.8, 60)
"""


def against(peer: str, photos: list[np.ndarray], *, exact: bool) -> Row:
    """Time five rounds per photo; the row has the median photo and the quartiles over photos."""
    segment = peers.FELZENSZWALB[peer]
    rows = []
    for photo in photos:
        ours, theirs = cuekit.felzenszwalb(photo), segment(photo)
        if exact:
            np.testing.assert_array_equal(ours, theirs)
        else:  # other smoothing and rounding: the same work, but not the same labels
            assert 0.5 < (theirs.max() + 1) / (ours.max() + 1) < 2
        contenders = (
            Contender("cuekit", partial(cuekit.felzenszwalb, photo, **SETTING), ours),
            Contender(peer, partial(segment, photo), theirs),
        )
        rows.append(compare(*contenders, quick=True))
    low, ratio, high = np.quantile([row.ratio for row in rows], (0.25, 0.5, 0.75))
    return Row(
        peer=peer,
        group="",
        ours_ms=median(row.ours_ms for row in rows),
        peer_ms=median(row.peer_ms for row in rows),
        ratio=float(ratio),
        low=float(low),
        high=float(high),
        rounds=QUICK_ROUNDS * len(rows),
    )


def time(photos: list[np.ndarray]) -> Result:
    """Compare with scikit-image, and with OpenCV if it is installed."""
    rows = [against("scikit-image", photos, exact=True)]
    claims = [Claim("felzenszwalb against scikit-image", ("scikit-image",), at_least=15)]
    if "OpenCV" in peers.FELZENSZWALB:
        rows.append(against("OpenCV", photos, exact=False))
        claims.append(Claim("felzenszwalb against OpenCV", ("OpenCV",), at_least=4))
    pixels = median(photo[..., 0].size for photo in photos)
    title = f"felzenszwalb, {len(photos)} photos of {pixels / 1e6:.2f} million pixels, uint8"
    return Result(title, rows, [judge(claim, rows) for claim in claims])


def peak_bytes_per_pixel(setup: str) -> float:
    """Return the peak memory of a call in a fresh process."""
    peak = peak_bytes(MEMORY_SETUP.format(setup=setup, size=MEMORY_SIZE))
    return peak / (MEMORY_SIZE[0] * MEMORY_SIZE[1])


def memory() -> Result:
    """Measure the peak memory of a call on noise, the worst case for sorting edges."""
    ours, theirs = peak_bytes_per_pixel(OURS), peak_bytes_per_pixel(SCIKIT_IMAGE)
    text = f"felzenszwalb, peak memory against scikit-image's {theirs:.0f} B"
    verdicts = [
        bound("felzenszwalb, peak memory per pixel", ours, " B", 112),
        bound(text, ours / theirs, "×", 0.4),
    ]
    return Result("felzenszwalb, memory", [], verdicts)


def large(photos: list[np.ndarray], *, quick: bool) -> Result:
    """Compare the time per pixel of a large photo with that of small ones."""
    rng = np.random.default_rng(0)
    enlarged = np.asarray(Image.fromarray(photos[0]).resize(LARGE_SIZE[::-1]))
    noisy = enlarged + rng.normal(scale=8, size=enlarged.shape)
    photo = noisy.clip(0, 255).astype(np.uint8)
    ratios = []
    for small in photos[: 1 if quick else 5]:
        times = [seconds(partial(cuekit.felzenszwalb, small)) for _ in range(QUICK_ROUNDS)]
        once = seconds(lambda: cuekit.felzenszwalb(photo))
        ratios.append(once / photo[..., 0].size / (median(times) / small[..., 0].size))
    low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    text = "felzenszwalb, time per pixel of a photo of 4000×6000 against small ones"
    verdict = Verdict(text, "", ratio, low, high, "≤ 4×", "×", bool(ratio <= 4))
    return Result("felzenszwalb, large photo", [], [verdict])


def run(*, quick: bool = False) -> list[Result]:
    """Run the benchmark."""
    photos = inputs.natural_photos(4 if quick else 24)
    results = [time(photos), large(photos, quick=quick)]
    if Path("/proc/self/clear_refs").exists():
        results.append(memory())
    return results
