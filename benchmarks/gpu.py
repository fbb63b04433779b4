"""``python benchmarks/gpu.py``: build, test, time and sanitize the CUDA kernels on a GPU.

It takes less than ten minutes; when the time is over, the remaining parts are skipped. It needs
nvcc, a C++ compiler, torch with CUDA, pybind11, setuptools, pytest with hypothesis, and no network.
It prints a table row by row; ``--json FILE`` stores all figures; ``--skip`` leaves parts out.

Times are medians of CUDA events around single calls. The GPU is busy when the first call is
launched, so that the host runs ahead and the time of launches on the host is not measured. The
arrays of all calls together are far larger than L2: small ones are used in rotation. Every answer
is compared with the CPU's before it is timed. A kernel's bytes are those that must be read or
written at least once; where a maximum is needed before a second pass over the same maps, both
passes count. Bandwidths are relative to a device-to-device copy of 1 GiB, reads and writes, in the
same run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cuekit.crf import Storage

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402 - the package of this clone, not an installed one
import torch  # noqa: E402

BATCH, CHANNELS, SIZE, GRID = 32, 21, (375, 500), (41, 41)
CELLS = (94, 125)  # of maps that walk: stride 4
PIXELS = SIZE[0] * SIZE[1]
PRESENT = 3  # classes of 20 in every photo
ROUNDS = 21
PARTS = ("build", "test", "measure", "sanitize")
DEVICE = "cuda"
L2_BYTES = 256 * 2**20  # more than any GPU has
SECONDS = 570  # time limit of the whole run


def say(text: str) -> None:
    """Print and flush, so that the output of an aborted run is complete."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# ------------------------------------------------------------------------------ build and test


DEADLINE = time.monotonic() + SECONDS


def step(name: str, command: Sequence[str], seconds: float, **environment: str) -> bool:
    """Run a command with a time limit and print the result; if it failed, its last lines, too."""
    seconds = min(seconds, DEADLINE - time.monotonic())
    if seconds < 5:
        say(f"{name}: **no time left**")
        return False
    process = subprocess.Popen(  # noqa: S603 - a fixed command
        list(command),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the process and its children
        process.wait()
        say(f"{name}: **not finished** in {seconds:.0f} s")
        return False
    lines = output.strip().splitlines()
    say(f"{name}: {'**failed**' if process.returncode else 'ok'}, {lines[-1] if lines else ''}")
    if process.returncode:
        say("\n".join(lines[-30:]))
    return process.returncode == 0


def build() -> bool:
    """Build the extensions in place, for this GPU only."""
    major, minor = torch.cuda.get_device_capability()
    return step(
        "build",
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        240,
        CUEKIT_CUDA="1",
        CUEKIT_CUDA_ARCHITECTURES=f"{major}{minor}",
    )


PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
OPS = (
    "subtract background raw_cues superpixel_mean bilateral_filter snap mask_scores fuse resize "
    "labels suppress refine_local crf random_walk"
)
# Fewer examples, and none on emulated kernels.
ON_GPU = {"CUEKIT_TEST_EXAMPLES": "60", "CUEKIT_TEST_EMULATED": "0"}


def test() -> bool:
    """Run the tests that use a device."""
    files = [f"tests/test_{op}.py" for op in OPS.split()]
    # Tests without a device are left to an ordinary run of the test suite.
    chosen = ["-k", "cuda or oracle or device"]
    return step("test", [*PYTEST, "tests/test_cuda.py", *files, *chosen], 150, **ON_GPU)


def sanitize() -> bool:
    """Run every op, also with labels out of range, under NVIDIA's compute-sanitizer."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    folders = os.pathsep.join([os.environ["PATH"], *(f"{home}/bin" for home in homes if home)])
    sanitizer = shutil.which("compute-sanitizer", path=folders)
    if sanitizer is None:
        say("sanitize: **no compute-sanitizer** on the path or under CUDA_HOME")
        return False
    tests = ["tests/test_cuda.py", "-k", "any_memory_order or out_of_range"]
    # Torch's caching allocator returns parts of larger blocks; the sanitizer cannot detect accesses
    # from one part to another.
    options = {**ON_GPU, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    good = True
    for tool in ("memcheck", "racecheck", "initcheck"):
        command = [sanitizer, "--tool", tool, "--error-exitcode", "1", *PYTEST, *tests]
        good = step(f"sanitize {tool}", command, 90, **options) and good
    return good


# --------------------------------------------------------------------------------------- timing


@dataclass
class Row:
    """One row of the table."""

    title: str
    ms: float
    bytes: int = 0
    share: float | None = None  # bandwidth relative to the copy's
    at_least: float | None = None  # limit of `share`
    peers: dict[str, float] = field(default_factory=dict)  # milliseconds
    times: float | None = None  # limit of the speed-up over the fastest peer
    at_most_ms: float | None = None

    def holds(self) -> bool:
        """Return whether all limits hold."""
        return not (
            (self.at_least is not None and (self.share or 0) < self.at_least)
            or (self.times is not None and min(self.peers.values()) / self.ms < self.times)
            or (self.at_most_ms is not None and self.ms > self.at_most_ms)
        )

    def line(self) -> str:
        """Return the row as Markdown."""
        limits = []
        share = ""
        if self.share is not None:
            share = f"{self.bytes / self.ms / 1e6:.0f} GB/s, {100 * self.share:.0f} %"
        if self.at_least is not None:
            limits.append(f"≥ {100 * self.at_least:.0f} %")
        if self.times is not None:
            limits.append(f"≥ {self.times:g}× its peer")
        if self.at_most_ms is not None:
            limits.append(f"≤ {self.at_most_ms:g} ms")
        peers = ", ".join(f"{name} {ms / self.ms:.1f}×" for name, ms in self.peers.items())
        verdict = ("yes" if self.holds() else "**no**") if limits else ""
        cells = (self.title, f"{self.ms:.3f}", share, peers, ", ".join(limits), verdict)
        return f"| {' | '.join(cells)} |"


def milliseconds(calls: Sequence[Callable[[], Any]], rounds: int = ROUNDS) -> float:
    """Return the median time of calls that are made in rotation."""
    for call in calls:
        call()
    sequence = list(itertools.islice(itertools.cycle(calls), rounds))
    cuda: Any = torch.cuda  # partly without annotations
    events = [[cuda.Event(enable_timing=True) for _ in range(2)] for _ in sequence]
    torch.cuda.synchronize()
    cuda._sleep(40_000_000)  # about 20 ms, in which the host queues the calls
    for call, (start, end) in zip(sequence, events, strict=True):
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in events)


def copy_bandwidth() -> float:
    """Return bytes per millisecond of a copy, reads plus writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device=DEVICE).random_(0, 255)
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds([lambda: target.copy_(source)])


def nbytes(*tensors: torch.Tensor) -> int:
    """Return the sum of the tensors' sizes."""
    return sum(t.numel() * t.element_size() for t in tensors)


def in_turns(
    function: Callable[..., Any], *tensors: torch.Tensor, **options: Any
) -> list[Callable[[], Any]]:
    """Return calls on copies of the tensors, which together are larger than any L2."""
    count = max(1, min(64, -(-L2_BYTES // max(nbytes(*tensors), 1))))
    sets = [tensors, *(tuple(t.clone() for t in tensors) for _ in range(count - 1))]
    return [partial(function, *each, **options) for each in sets]


def check(result: torch.Tensor, expected: np.ndarray, tolerance: float, name: str) -> None:
    """Raise if an answer is wrong."""
    got = result[: len(expected)].cpu().numpy()
    if tolerance:
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=name)
    else:
        np.testing.assert_array_equal(got, expected, err_msg=name)


# ---------------------------------------------------------------------------------------- inputs


def photos(count: int) -> np.ndarray:
    """Return smooth random photos with noise."""
    rng = np.random.default_rng(0)
    result = []
    for _ in range(count):
        coarse = torch.from_numpy(rng.random((1, 3, 12, 16)))
        smooth = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic")[0]
        noisy = 255 * smooth.permute(1, 2, 0).numpy() + rng.normal(0, 4, (*SIZE, 3))
        result.append(noisy.clip(0, 255).astype(np.uint8))
    return np.stack(result)


def superpixels() -> np.ndarray:
    """Return superpixels of a batch, which repeats those of four photos."""
    import cuekit

    labels = np.stack([cuekit.felzenszwalb(photo) for photo in photos(4)])
    return np.tile(labels, (BATCH // 4, 1, 1))


def noise(*shape: int) -> torch.Tensor:
    """Return normally distributed float32 values on the GPU."""
    return torch.randn(shape, generator=torch.Generator(DEVICE).manual_seed(0), device=DEVICE)


def tags(count: int = PRESENT) -> torch.Tensor:
    """Return tags (BATCH, 20) with `count` present classes, different ones in every photo."""
    rows = np.zeros((BATCH, CHANNELS - 1), dtype=bool)
    for b in range(BATCH):
        rows[b, np.random.default_rng(b).permutation(CHANNELS - 1)[:count]] = True
    return torch.from_numpy(rows).to(DEVICE)


# ----------------------------------------------------------------------------------------- cases


def on_cpu(function: Callable[..., Any], *tensors: torch.Tensor, **options: Any) -> np.ndarray:
    """Compute the answer for the first two images on the CPU."""
    return function(*(t[:2].cpu().numpy() for t in tensors), **options)


def elementwise_cases(bandwidth: float) -> Iterator[Row]:
    """Time kernels that are limited by bandwidth, relative to a copy."""
    import cuekit

    def row(
        title: str,
        function: Callable[..., Any],
        tensors: Sequence[torch.Tensor],
        moved: int,
        at_least: float | None,
        tolerance: float = 0,
        **options: Any,
    ) -> Row:
        check(
            function(*tensors, **options), on_cpu(function, *tensors, **options), tolerance, title
        )
        ms = milliseconds(in_turns(function, *tensors, **options))
        return Row(title, ms, moved, moved / ms / bandwidth, at_least)

    def fuse(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return cuekit.fuse_cues(first, second)

    def raw(cams: torch.Tensor, background: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        return cuekit.raw_cues(cams, background, present)

    scores, present = noise(BATCH, CHANNELS, *SIZE), tags()
    yield row(
        "suppress, 3 of 20 present",
        cuekit.suppress_absent,
        (scores, present),
        2 * nbytes(scores),
        0.8,
    )
    cues = scores > 1
    yield row("fuse two sets", fuse, (cues, ~cues), 3 * nbytes(cues), 0.8)
    cams = scores[:, 1:].contiguous()
    image = 4 * PIXELS
    for mode in ("pairwise", "strongest"):
        yield row(
            f"subtract {mode}, 3 of 20 present",
            cuekit.subtract_classes,
            (cams, present),
            BATCH * (PRESENT + CHANNELS - 1) * image,
            0.8,
            mode=mode,
        )
    every = tags(CHANNELS - 1)
    yield row(
        "subtract pairwise, 20 of 20 present",
        cuekit.subtract_classes,
        (cams, every),
        2 * nbytes(cams),
        None,  # limited by arithmetic: 380 differences in float64 per pixel
    )
    ground = scores[:, 0].abs().contiguous()
    for count, chosen in ((PRESENT, present), (CHANNELS - 1, every)):
        yield row(
            f"raw cues, {count} of 20 present",
            raw,
            (cams, ground, chosen),
            BATCH * (2 * count * image + image + CHANNELS * PIXELS),
            0.7,
        )
    features = [noise(BATCH, depth, *GRID).relu() for depth in (1024, 2048)]
    yield row(
        "background map of 1024 and 2048 channels, 41×41",
        cuekit.background_map,
        features,
        nbytes(*features),
        0.7,
        1e-6,
    )


def superpixel_cases(bandwidth: float) -> Iterator[Row]:
    """Time superpixel_mean and snap_cues, compared with torch."""
    import cuekit

    labels = torch.from_numpy(superpixels()).to(DEVICE)
    count = int(labels.max()) + 1
    values = noise(BATCH, CHANNELS, *SIZE)
    options: dict[str, Any] = {"num_superpixels": count}
    flat = (labels.reshape(BATCH, 1, PIXELS) + 0).long()

    def index_add(values: torch.Tensor) -> torch.Tensor:
        base = torch.arange(BATCH, device=DEVICE)[:, None] * count
        index = (flat[:, 0] + base).reshape(-1)
        by_pixel = values.permute(0, 2, 3, 1).reshape(-1, CHANNELS)
        sums = torch.zeros(BATCH * count, CHANNELS, device=DEVICE).index_add_(0, index, by_pixel)
        sizes = torch.bincount(index, minlength=BATCH * count).clamp_min(1)
        means = (sums / sizes[:, None])[index]
        return means.reshape(BATCH, *SIZE, CHANNELS).permute(0, 3, 1, 2).contiguous()

    def scatter_reduce(values: torch.Tensor) -> torch.Tensor:
        index = flat.expand(-1, CHANNELS, -1)
        means = torch.zeros(BATCH, CHANNELS, count, device=DEVICE)
        means.scatter_reduce_(2, index, values.flatten(2), "mean", include_self=False)
        return means.gather(2, index).reshape(values.shape)

    expected = on_cpu(cuekit.superpixel_mean, values, labels)
    check(cuekit.superpixel_mean(values, labels, **options), expected, 1e-6, "superpixel_mean")
    for peer in (index_add, scatter_reduce):
        check(peer(values), expected, 1e-4, peer.__name__)  # float32 sums
    ms = milliseconds([lambda: cuekit.superpixel_mean(values, labels, **options)])
    moved = 2 * nbytes(values) + nbytes(labels)
    yield Row(
        "superpixel mean",
        ms,
        moved,
        moved / ms / bandwidth,
        0.6,
        {
            peer.__name__: milliseconds([partial(peer, values)], 7)
            for peer in (index_add, scatter_reduce)
        },
        times=5,
    )

    cues = noise(BATCH, CHANNELS, *GRID) > 1

    def snap_in_torch(cues: torch.Tensor) -> torch.Tensor:
        full = torch.nn.functional.interpolate(cues.float(), SIZE, mode="nearest-exact")
        index = flat.expand(-1, CHANNELS, -1)
        means = torch.zeros(BATCH, CHANNELS, count, device=DEVICE)
        means.scatter_reduce_(2, index, full.flatten(2), "mean", include_self=False)
        on = (means > 0.3 * means.amax(2, keepdim=True)) & (means > 0)
        return on.gather(2, index).reshape(full.shape)

    expected = on_cpu(cuekit.snap_cues, cues, labels)
    check(cuekit.snap_cues(cues, labels, **options), expected, 0, "snap_cues")
    different = (snap_in_torch(cues)[:2].cpu().numpy() != expected).mean()
    if different > 1e-3:  # means in float32 are sometimes on the other side of the threshold
        raise AssertionError(f"torch's answer differs at {different:.2%} of the pixels")
    moved = BATCH * CHANNELS * PIXELS + nbytes(labels, cues)
    ms = milliseconds(in_turns(lambda c: cuekit.snap_cues(c, labels, **options), cues))
    torch_ms = milliseconds(in_turns(snap_in_torch, cues), 7)
    yield Row(
        "snap from 41×41 to full size",
        ms,
        moved,
        moved / ms / bandwidth,
        peers={"torch": torch_ms},
        times=10,
    )


def mask_cases(_: float) -> Iterator[Row]:
    """Time mask_scores, compared with torch."""
    import cuekit

    count = 100
    boxes = np.random.default_rng(0).random((BATCH, count, 4))
    rows, columns = np.arange(SIZE[0])[:, None] / SIZE[0], np.arange(SIZE[1]) / SIZE[1]
    top, left, height, width = np.moveaxis(boxes * (1, 1, 0.4, 0.4), -1, 0)[..., None, None]
    stack = (rows >= top) & (rows < top + height) & (columns >= left) & (columns < left + width)
    masks = torch.from_numpy(stack).to(DEVICE)
    maps = noise(BATCH, CHANNELS - 1, *SIZE).relu()

    def by_torch(maps: torch.Tensor, masks: torch.Tensor) -> list[torch.Tensor]:
        ones, flat = masks.flatten(2).float(), maps.flatten(2)
        sizes = ones.sum(2, keepdim=True).clamp_min(1)
        cues = (flat > 0.3 * flat.amax(2, keepdim=True)).float()
        both = ones @ cues.mT
        totals = cues.sum(2)[:, None].clamp_min(1)
        return [ones @ flat.mT / sizes, both / sizes, both / totals]

    def largest_by_torch(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        tops = torch.zeros(BATCH, count, CHANNELS - 1, device=DEVICE)
        for image, image_masks, row in zip(maps.flatten(2), masks.flatten(2), tops, strict=True):
            for r, mask in enumerate(image_masks):
                values = image[:, mask]
                if values.shape[1]:
                    wanted = max(1, int(0.2 * values.shape[1] + 0.5))
                    row[r] = values.topk(wanted, 1).values.mean(1)
        return tops

    names = ("mean", "top_mean", "inside", "covered")
    expected = cuekit.mask_scores(maps[:2].cpu().numpy(), stack[:2])
    result = cuekit.mask_scores(maps, masks)
    for name in names:
        check(getattr(result, name), getattr(expected, name), 1e-12, f"mask_scores, {name}")
    mean, inside, covered = by_torch(maps, masks)
    theirs = (mean, largest_by_torch(maps, masks), inside, covered)
    for name, each in zip(names, theirs, strict=True):
        check(each, getattr(expected, name), 1e-3, f"torch's {name}")  # TensorFloat32, if it is on
    for wanted, peer in ((None, by_torch), (0.2, None)):
        ms = milliseconds([partial(cuekit.mask_scores, maps, masks, top=wanted)], 7)
        yield Row(
            f"scores of {count} masks, {'all' if wanted else 'without the largest values'}",
            ms,
            peers={} if peer is None else {"torch": milliseconds([partial(peer, maps, masks)], 7)},
        )


def most_memory(call: Callable[[], Any]) -> int:
    """Return the bytes that a call needs at most, its result included."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def refine_local_cases(_: float) -> Iterator[Row]:
    """Time whole calls with six dilations and ten iterations, compared with torch."""
    import cuekit
    from benchmarks.peers_torch import refine_published, refine_slices

    def case(title: str, batch: int, channels: int, preset: str, *, published: bool = True) -> Row:
        image = torch.from_numpy(np.tile(photos(1), (batch, 1, 1, 1))).to(DEVICE)
        maps = noise(batch, channels, *SIZE).abs()
        floating = image.permute(0, 3, 1, 2).float().contiguous()

        def ours() -> torch.Tensor:
            return cuekit.refine_local(maps, image, preset)

        def theirs(peer: Callable[..., torch.Tensor]) -> torch.Tensor:
            return peer(maps, floating, preset)

        expected = on_cpu(cuekit.refine_local, maps[:1], image[:1], preset=preset)
        check(ours(), expected, 1e-6, title)
        # float32 rounding of exponents, which differs on a GPU: for some pixels in a thousand.
        peers = [refine_slices, *([refine_published] if published else [])]
        for peer in peers:
            off = np.abs(theirs(peer)[:1].cpu().numpy() - expected)
            if np.quantile(off, 0.999) > 1e-4 * expected.max():
                raise AssertionError(f"{title}: {peer.__name__} differs by {off.max():.1e}")
        row = Row(title, milliseconds([ours]))
        row.peers = {
            peer.__name__: milliseconds([partial(theirs, peer)], 7 if published else 3)
            for peer in peers
        }
        if published:
            row.times = 5
        if published and DEVICE == "cuda":
            share = most_memory(ours) / most_memory(partial(theirs, refine_published))
            row.title += f", {share:.3f} of the published module's memory"
            if share > 0.1:
                raise AssertionError(f"{row.title}: more than a tenth")
        return row

    yield case("PAR, one photo", 1, CHANNELS, "par")
    yield case("PAR, one photo, 4 maps", 1, 4, "par")
    yield case("PAMR, one photo", 1, CHANNELS, "pamr")
    yield case(f"PAR, {BATCH} photos", BATCH, CHANNELS, "par", published=False)


def seconds_of_pydensecrf(probabilities: np.ndarray, photo: np.ndarray) -> float | None:
    """Return the best of three times of pydensecrf with SEC's CRF on the CPU, if installed."""
    try:
        from pydensecrf import densecrf
        from pydensecrf.utils import unary_from_softmax
    except ImportError:
        return None

    def call() -> np.ndarray:
        model = densecrf.DenseCRF2D(photo.shape[1], photo.shape[0], len(probabilities))
        model.setUnaryEnergy(unary_from_softmax(probabilities))
        model.addPairwiseGaussian(sxy=3, compat=3)
        model.addPairwiseBilateral(sxy=80, srgb=13, rgbim=photo, compat=10)
        return np.array(model.inference(10))

    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def check_crf(
    result: torch.Tensor, expected: np.ndarray, *, alike: float = 0.9999, within: float = 1e-3
) -> None:
    """Raise if labels, or the 99.9 % quantile of differences, are too far from the CPU's."""
    got = result[: len(expected)].cpu().numpy()
    agreement = (got.argmax(1) == expected.argmax(1)).mean()
    difference = np.quantile(np.abs(got - expected), 0.999)
    if agreement < alike or difference > within:
        raise AssertionError(f"labels agree at {agreement:.4%}, 99.9 % within {difference:.1e}")


def crf_cases(_: float) -> Iterator[Row]:
    """Time whole calls: inputs are on the GPU, every call builds its lattices."""
    import cuekit

    def case(
        title: str,
        shape: tuple[int, ...],
        params: str = "sec",
        at_most_ms: float | None = None,
        iterations: int = 10,
        chosen: torch.Tensor | None = None,
        storage: Storage = "float32",
    ) -> Row:
        batch, _, height, width = shape
        rows, columns = (np.arange(n) * m // n for n, m in zip((height, width), SIZE, strict=True))
        images = np.tile(photos(4), (-(-batch // 4), 1, 1, 1))[:batch]
        images = np.ascontiguousarray(images[:, rows[:, None], columns])
        logits = noise(*shape[:2], -(-height // 16), -(-width // 16))
        full = torch.nn.functional.interpolate(3 * logits, (height, width), mode="bilinear")
        maps, image = full.softmax(1).contiguous(), torch.from_numpy(images).to(DEVICE)

        def call(maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return cuekit.dense_crf(
                maps, image, params, present=chosen, iterations=iterations, storage=storage
            )

        few = min(batch, 2)
        on_host = None if chosen is None else chosen[:few].cpu().numpy()
        expected = cuekit.dense_crf(
            maps[:few].cpu().numpy(), images[:few], params, present=on_host, iterations=iterations
        )
        # float16: five roundings (2**-11) per iteration, of messages of up to 13.
        limits = {"alike": 0.99, "within": 0.1} if storage == "float16" else {}
        check_crf(call(maps, image), expected, **limits)
        row = Row(title, milliseconds(in_turns(call, maps, image)), at_most_ms=at_most_ms)
        alone = batch == 1 and iterations == 10 and chosen is None
        if alone and params == "sec" and storage == "float32":
            theirs = seconds_of_pydensecrf(maps[0].cpu().numpy(), images[0])
            if theirs is not None:
                row.peers, row.times = {"pydensecrf on the CPU": 1e3 * theirs}, 300
        return row

    one = (1, CHANNELS, *SIZE)
    yield case("dense CRF, one photo", one, at_most_ms=1.0)
    # The parts of this time: without iteration, reading and writing only; the first iteration adds
    # the lattices; the rest are nine iterations.
    yield case("dense CRF, one photo, no iteration", one, iterations=0)
    yield case("dense CRF, one photo, one iteration", one, iterations=1)
    yield case("dense CRF, one photo, irn", one, "irn")
    yield case("dense CRF, one photo, 3 of 20 present", one, chosen=tags()[:1])
    yield case("dense CRF, one photo, 151 classes", (1, 151, *SIZE))
    yield case(f"dense CRF, {BATCH} photos", (BATCH, CHANNELS, *SIZE), at_most_ms=BATCH / 2.5)
    yield case("dense CRF, one photo, float16 storage", one, storage="float16")
    many = (BATCH, CHANNELS, *SIZE)
    yield case(f"dense CRF, {BATCH} photos, float16 storage", many, storage="float16")
    yield case("dense CRF, 16 grids of 41×41", (16, CHANNELS, *GRID), "sec-train", 1.5)


def filter_cases(_: float) -> Iterator[Row]:
    """Time the bilateral filter and the dense energy loss: every call builds its lattices."""
    import cuekit
    from cuekit import losses

    def inputs(batch: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = (np.arange(n) * m // n for n, m in zip(size, SIZE, strict=True))
        images = np.tile(photos(4), (-(-batch // 4), 1, 1, 1))[:batch]
        images = np.ascontiguousarray(images[:, rows[:, None], columns])
        logits = noise(batch, CHANNELS, *(-(-side // 16) for side in size))
        full = torch.nn.functional.interpolate(3 * logits, size, mode="bilinear")
        return full.softmax(1).contiguous(), torch.from_numpy(images).to(DEVICE)

    def call(maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return cuekit.bilateral_filter(maps, image, sxy=50, srgb=15)

    half = tuple(min(160, side) for side in SIZE)
    for batch, size in ((4, half), (1, SIZE), (BATCH, SIZE)):
        maps, image = inputs(batch, (size[0], size[1]))
        expected = on_cpu(cuekit.bilateral_filter, maps, image, sxy=50, srgb=15)
        # Float32 sums in another order, relative to the largest.
        check(call(maps, image) / expected.max(), expected / expected.max(), 1e-5, "filter")
        title = f"bilateral filter, {batch}×{CHANNELS}×{size[0]}×{size[1]}"
        yield Row(title, milliseconds(in_turns(call, maps, image)))

    maps, image = inputs(4, (2 * half[0], 2 * half[1]))

    def step(maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        leaf = maps.detach().requires_grad_()
        return torch.autograd.grad(losses.dense_energy_loss(leaf, image, weight=1), leaf)[0]

    expected = step(maps[:2].cpu(), image[:2].cpu()).numpy()
    largest = np.abs(expected).max()
    check(step(maps[:2], image[:2]) / largest, expected / largest, 1e-5, "dense_energy_loss")
    title = f"dense energy loss and its gradient, 4×{CHANNELS}×{2 * half[0]}×{2 * half[1]}"
    yield Row(title, milliseconds(in_turns(step, maps, image)))


def walk_cases(_: float) -> Iterator[Row]:
    """Time whole calls, compared with the dense matrix of published code."""
    import cuekit
    from cuekit.random_walk import neighbour_offsets

    height, width = CELLS
    index = torch.arange(height * width, device=DEVICE).reshape(CELLS)

    def dense(maps: torch.Tensor, boundary: torch.Tensor) -> torch.Tensor:
        matrix = torch.eye(height * width, device=DEVICE)
        for dy, dx in neighbour_offsets().tolist():
            left, right = max(0, -dx), min(width, width - dx)

            def cells(source: torch.Tensor, y: int, x: int, dy: int = dy) -> torch.Tensor:
                return source[y : height - dy + y, left + x : right + x]  # noqa: B023 - used here

            box = [(y, x) for y in range(dy + 1) for x in range(min(0, dx), max(0, dx) + 1)]
            path = [(y, x) for y, x in box if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
            affinities = (1 - torch.stack([cells(boundary, *each) for each in path]).amax(0)) ** 10
            i, j = cells(index, 0, 0), cells(index, dy, dx)
            matrix[i, j] = affinities
            matrix[j, i] = affinities
        matrix /= matrix.sum(0)
        for _ in range(8):
            matrix = matrix @ matrix
        return ((maps * (1 - boundary)).flatten(1) @ matrix).reshape(maps.shape)

    def case(batch: int, channels: int, times: float | None = None) -> Row:
        coarse = noise(batch, channels + 1, -(-height // 8), -(-width // 8))
        smooth = torch.nn.functional.interpolate(coarse, CELLS, mode="bilinear").sigmoid()
        maps, boundary = smooth[:, 1:].contiguous(), (smooth[:, 0] ** 4).contiguous()
        expected = on_cpu(cuekit.random_walk, maps, boundary)
        check(cuekit.random_walk(maps, boundary), expected, 1e-5, "random_walk")
        count = "one image" if batch == 1 else f"{batch} images"
        title = f"random walk of {height}×{width}, {channels} maps, {count}"
        row = Row(title, milliseconds(in_turns(cuekit.random_walk, maps, boundary)))
        if times is not None:
            check(dense(maps[0], boundary[0])[None], expected[:1], 1e-4, "dense")
            theirs = milliseconds([partial(dense, maps[0], boundary[0])], 3)
            row.peers, row.times = {"dense matrix": theirs}, times
        return row

    yield case(1, 4, 20)
    yield case(1, CHANNELS)
    yield case(BATCH, CHANNELS)


CASES = (
    elementwise_cases,
    superpixel_cases,
    filter_cases,
    mask_cases,
    refine_local_cases,
    crf_cases,
    walk_cases,
)


def measure(file: Path | None) -> bool:
    """Time all cases and print which limits hold."""
    import cuekit

    bandwidth = copy_bandwidth()
    config = cuekit.build_config()
    properties = torch.cuda.get_device_properties(0)
    say(
        f"\n{properties.name}, {properties.multi_processor_count} multiprocessors, CUDA "
        f"{config['cuda']}, torch {torch.__version__}; device copy {bandwidth / 1e6:.0f} GB/s; "
        f"{BATCH}×{CHANNELS}×{SIZE[0]}×{SIZE[1]} float32 unless stated otherwise\n"
    )
    say("| case | ms | bandwidth, share of the copy's | peers' times | limit | holds |")
    say("|---|---|---|---|---|---|")
    rows = []
    for cases in CASES:
        for row in cases(bandwidth):
            rows.append(row)
            say(row.line())
            if file is not None:
                content = {"gpu": properties.name, **config, "copy_GB_s": bandwidth / 1e6}
                content["rows"] = [asdict(each) for each in rows]
                file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return all(row.holds() for row in rows)


def main() -> None:
    """Build, test, measure and sanitize."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all figures")
    parser.add_argument("--skip", nargs="*", choices=PARTS, default=())
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use")
    good = True
    if "build" not in arguments.skip and not build():
        raise SystemExit(1)
    if "test" not in arguments.skip:
        good = test()
    if "measure" not in arguments.skip:
        good = measure(arguments.json) and good
    if "sanitize" not in arguments.skip:
        good = sanitize() and good
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
