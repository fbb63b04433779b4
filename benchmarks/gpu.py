"""``python benchmarks/gpu.py``: build, test and time everything CUDA on a machine with a GPU.

One call of less than ten minutes, whatever it finds: what comes last is cut short. It needs nvcc, a
C++ compiler, torch with CUDA, pybind11, setuptools and pytest with hypothesis, and no network.
Prints a table as it goes; ``--json FILE`` keeps all figures. Parts that are not wanted are left out
by ``--skip``.

Times are CUDA events around one call each, medians; the GPU is kept busy before, so that the host
is ahead of it and launches cost nothing but what they cost the GPU. Arrays together are far larger
than the L2 cache, small ones take turns. Every answer is held against the CPU's before it is timed.
A kernel's bytes are what must be read and written at least once (where a maximum is needed before
the second pass over the same maps, both passes); bandwidths are shares of a device-to-device copy
of 1 GiB, read and written, in the same run.
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
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402 - the package of this clone, not an installed one
import torch  # noqa: E402

BATCH, CHANNELS, SIZE, GRID = 32, 21, (375, 500), (41, 41)
PIXELS = SIZE[0] * SIZE[1]
PRESENT = 3  # classes of 20 in every photo
ROUNDS = 21
PARTS = ("build", "test", "measure", "sanitize")
DEVICE = "cuda"
L2_BYTES = 256 * 2**20  # more than any GPU has
SECONDS = 570  # for everything


def say(text: str) -> None:
    """Print at once: a run that is cut short leaves what it had."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# ------------------------------------------------------------------------------ build and test


DEADLINE = time.monotonic() + SECONDS


def step(name: str, command: Sequence[str], seconds: float, **environment: str) -> bool:
    """Run a command within its time and tell how it ended, with the last lines if it failed."""
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
        os.killpg(process.pid, signal.SIGKILL)  # with all that it started
        process.wait()
        say(f"{name}: **not finished** in {seconds:.0f} s")
        return False
    lines = output.strip().splitlines()
    say(f"{name}: {'**failed**' if process.returncode else 'ok'}, {lines[-1] if lines else ''}")
    if process.returncode:
        say("\n".join(lines[-30:]))
    return process.returncode == 0


def build() -> bool:
    """Compile in place for this GPU only."""
    major, minor = torch.cuda.get_device_capability()
    return step(
        "build",
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        240,
        CUEKIT_CUDA="1",
        CUEKIT_CUDA_ARCHITECTURES=f"{major}{minor}",
    )


PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
OPS = "subtract background raw_cues superpixel_mean snap fuse resize labels suppress crf"
# Fewer examples, and none of them emulated.
ON_GPU = {"CUEKIT_TEST_EXAMPLES": "60", "CUEKIT_TEST_EMULATED": "0"}


def test() -> bool:
    """Run the tests that take a device."""
    files = [f"tests/test_{op}.py" for op in OPS.split()]
    # What needs no device has its place in an ordinary run of the tests.
    chosen = ["-k", "cuda or oracle or device"]
    return step("test", [*PYTEST, "tests/test_cuda.py", *files, *chosen], 150, **ON_GPU)


def sanitize() -> bool:
    """Run every op, and labels out of range, under NVIDIA's sanitizer."""
    homes = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    places = os.pathsep.join([os.environ["PATH"], *(f"{home}/bin" for home in homes if home)])
    sanitizer = shutil.which("compute-sanitizer", path=places)
    if sanitizer is None:
        say("sanitize: **no compute-sanitizer** on the path or under CUDA_HOME")
        return False
    tests = ["tests/test_cuda.py", "-k", "any_memory_order or out_of_range"]
    # Torch's allocator hands out parts of larger blocks, between which accesses go unnoticed.
    options = {**ON_GPU, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    good = True
    for tool in ("memcheck", "racecheck", "initcheck"):
        command = [sanitizer, "--tool", tool, "--error-exitcode", "1", *PYTEST, *tests]
        good = step(f"sanitize {tool}", command, 90, **options) and good
    return good


# --------------------------------------------------------------------------------------- timing


@dataclass
class Row:
    """One comparison."""

    title: str
    ms: float
    bytes: int = 0
    share: float | None = None  # of the copy's bandwidth
    at_least: float | None = None
    peers: dict[str, float] = field(default_factory=dict)  # milliseconds
    times: float | None = None  # as fast as the fastest peer, at least
    at_most_ms: float | None = None

    def holds(self) -> bool:
        """Tell whether every limit is kept."""
        return not (
            (self.at_least is not None and (self.share or 0) < self.at_least)
            or (self.times is not None and min(self.peers.values()) / self.ms < self.times)
            or (self.at_most_ms is not None and self.ms > self.at_most_ms)
        )

    def line(self) -> str:
        """Return it as a line of the table."""
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
    """Return the median time of calls that take turns."""
    for call in calls:
        call()
    turns = list(itertools.islice(itertools.cycle(calls), rounds))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in turns]
    torch.cuda.synchronize()
    torch.cuda._sleep(40_000_000)  # some 20 ms, in which the host goes ahead
    for call, (start, end) in zip(turns, events, strict=True):
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in events)


def copy_bandwidth() -> float:
    """Return bytes per millisecond of a copy, read and written."""
    source = torch.empty(2**30, dtype=torch.uint8, device=DEVICE).random_(0, 255)
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds([lambda: target.copy_(source)])


def nbytes(*tensors: torch.Tensor) -> int:
    """Sum of sizes."""
    return sum(t.numel() * t.element_size() for t in tensors)


def in_turns(
    function: Callable[..., Any], *tensors: torch.Tensor, **options: Any
) -> list[Callable[[], Any]]:
    """Return calls on copies of the tensors, so many that no cache holds all."""
    count = max(1, min(64, -(-L2_BYTES // max(nbytes(*tensors), 1))))
    sets = [tensors, *(tuple(t.clone() for t in tensors) for _ in range(count - 1))]
    return [lambda each=each: function(*each, **options) for each in sets]


def check(result: torch.Tensor, expected: np.ndarray, tolerance: float, name: str) -> None:
    """Refuse to time a wrong answer."""
    got = result[: len(expected)].cpu().numpy()
    if tolerance:
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=name)
    else:
        np.testing.assert_array_equal(got, expected, err_msg=name)


# ---------------------------------------------------------------------------------------- inputs


def photos(count: int) -> np.ndarray:
    """Patches of colour with soft borders, and noise."""
    rng = np.random.default_rng(0)
    result = []
    for _ in range(count):
        coarse = torch.from_numpy(rng.random((1, 3, 12, 16)))
        smooth = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic")[0]
        noisy = 255 * smooth.permute(1, 2, 0).numpy() + rng.normal(0, 4, (*SIZE, 3))
        result.append(noisy.clip(0, 255).astype(np.uint8))
    return np.stack(result)


def superpixels() -> np.ndarray:
    """Label maps of a batch, of four photos."""
    import cuekit

    labels = np.stack([cuekit.felzenszwalb(photo) for photo in photos(4)])
    return np.tile(labels, (BATCH // 4, 1, 1))


def noise(*shape: int) -> torch.Tensor:
    """Draw normal float32 values on the GPU."""
    return torch.randn(shape, generator=torch.Generator(DEVICE).manual_seed(0), device=DEVICE)


def tags(count: int = PRESENT) -> torch.Tensor:
    """(BATCH, 20) bool with `count` present classes, other ones in every photo."""
    rows = np.zeros((BATCH, CHANNELS - 1), dtype=bool)
    for b in range(BATCH):
        rows[b, np.random.default_rng(b).permutation(CHANNELS - 1)[:count]] = True
    return torch.from_numpy(rows).to(DEVICE)


# ----------------------------------------------------------------------------------------- cases


def on_cpu(function: Callable[..., Any], *tensors: torch.Tensor, **options: Any) -> np.ndarray:
    """Compute the first two images' answer on the CPU."""
    return function(*(t[:2].cpu().numpy() for t in tensors), **options)


def elementwise_cases(bandwidth: float) -> Iterator[Row]:
    """Kernels that the bandwidth bounds: a share of a copy's."""
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
        None,  # arithmetic bounds it: 380 differences in float64 at every pixel
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
    """Means and snapping, against what torch offers."""
    import cuekit

    labels = torch.from_numpy(superpixels()).to(DEVICE)
    count = int(labels.max()) + 1
    values = noise(BATCH, CHANNELS, *SIZE)
    options = {"num_superpixels": count}
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
            peer.__name__: milliseconds([lambda peer=peer: peer(values)], 7)
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
    if different > 1e-3:  # float32 means decide otherwise now and then
        raise AssertionError(f"the torch route differs at {different:.2%} of the pixels")
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


def seconds_of_pydensecrf(probabilities: np.ndarray, photo: np.ndarray) -> float | None:
    """Time SEC's CRF on this machine's CPU, where pydensecrf is installed: best of three."""
    try:
        from pydensecrf import densecrf
        from pydensecrf.utils import unary_from_softmax
    except ImportError:
        return None

    def call() -> np.ndarray:
        field = densecrf.DenseCRF2D(photo.shape[1], photo.shape[0], len(probabilities))
        field.setUnaryEnergy(unary_from_softmax(probabilities))
        field.addPairwiseGaussian(sxy=3, compat=3)
        field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=photo, compat=10)
        return np.array(field.inference(10))

    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def check_crf(
    result: torch.Tensor, expected: np.ndarray, *, alike: float = 0.9999, within: float = 1e-3
) -> None:
    """Refuse to time a CRF that is not the CPU's: labels, and 99.9 % of the probabilities."""
    got = result[: len(expected)].cpu().numpy()
    agreement = (got.argmax(1) == expected.argmax(1)).mean()
    difference = np.quantile(np.abs(got - expected), 0.999)
    if agreement < alike or difference > within:
        raise AssertionError(f"labels agree at {agreement:.4%}, 99.9 % within {difference:.1e}")


def crf_cases(_: float) -> Iterator[Row]:
    """Time whole calls: photos and maps lie on the GPU, the lattices are built anew each time."""
    import cuekit

    def case(
        title: str,
        shape: tuple[int, ...],
        params: str = "sec",
        at_most_ms: float | None = None,
        iterations: int = 10,
        chosen: torch.Tensor | None = None,
        storage: str = "float32",
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
        # Five roundings to 2**-11 in every iteration, of messages of up to 13.
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
    # What is in it: reading and writing; the lattices and one iteration more; nine iterations.
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


def measure(file: Path | None) -> bool:
    """Time everything and say what holds."""
    import cuekit

    bandwidth = copy_bandwidth()
    config = cuekit.build_config()
    properties = torch.cuda.get_device_properties(0)
    say(
        f"\n{properties.name}, {properties.multi_processor_count} multiprocessors, CUDA "
        f"{config['cuda']}, torch {torch.__version__}; device copy {bandwidth / 1e6:.0f} GB/s; "
        f"{BATCH}×{CHANNELS}×{SIZE[0]}×{SIZE[1]} float32 where nothing else is said\n"
    )
    say("| case | ms | bandwidth, share of the copy's | peers' times | limit | holds |")
    say("|---|---|---|---|---|---|")
    rows = []
    for cases in (elementwise_cases, superpixel_cases, crf_cases):
        for row in cases(bandwidth):
            rows.append(row)
            say(row.line())
            if file is not None:
                content = {"gpu": properties.name, **config, "copy_GB_s": bandwidth / 1e6}
                content["rows"] = [asdict(each) for each in rows]
                file.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return all(row.holds() for row in rows)


def main() -> None:
    """Build, test, measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures go")
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
