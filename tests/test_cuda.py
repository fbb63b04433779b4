"""What is particular to CUDA: devices of arrays, labels that are not checked, the build.

The kernels are compared with the oracle in each op's own file. Without a GPU they run emulated
(`emulated.py`); tests of streams, synchronization and memory are skipped there.
"""

import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import emulated
import numpy as np
import pytest
from common import ROOT, needs
from ops import every
from strategies import DEVICES, NO_DEVICE, Cuda, has_gpu, same_bits

import cuekit
from cuekit import crf, reference

pytestmark = pytest.mark.skipif(not DEVICES, reason=NO_DEVICE)
needs_gpu = pytest.mark.skipif(
    not has_gpu(), reason="needs an NVIDIA GPU, and torch that can use it"
)
every_op = every(lambda op: op.cuda)

CONFIG = cuekit.build_config()
RNG = np.random.default_rng(0)
CAMS = RNG.normal(size=(2, 9, 23, 31)).astype(np.float32)
PRESENT = RNG.random((2, 9)) > 0.5
CUES = CAMS > 0.5
SUPERPIXELS = RNG.integers(0, 40, (2, 46, 63))
FINE = np.ascontiguousarray(SUPERPIXELS[:, :23, :31])


@pytest.fixture(params=DEVICES, ids=lambda front_end: front_end.name)
def device(request):
    with request.param.active():
        yield request.param


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}")


def assert_alike(result, expected, op):
    """The CPU's bits, or its values within the op's tolerance."""
    if op.tolerance is None:
        assert same_bits(result, expected)
    else:
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, **op.tolerance)


# ---------------------------------------------------------------------------- memory and devices


@every_op
def test_equals_the_cpu_in_any_memory_order(device, op):
    expected = op(*op.arrays)
    for order in (np.ascontiguousarray, np.asfortranarray):
        wrapped = [device.wrap(order(array)) for array in op.arrays]
        assert_alike(device.unwrap(op(*wrapped)), expected, op)


@every_op
def test_torch_tensors_go_the_same_way(op):
    torch = needs("torch")
    expected = op(*op.arrays)
    transposed = [torch.from_numpy(a.T.copy()).permute(*range(a.ndim)[::-1]) for a in op.arrays]
    with emulated.torch_on_device():
        result = op(*map(torch.from_numpy, op.arrays))
        assert type(result) is torch.Tensor
        assert_alike(result.numpy(), expected, op)
        assert_alike(op(*transposed).numpy(), expected, op)


def test_the_constrain_loss_runs_on_the_device_of_the_scores(monkeypatch):
    torch = needs("torch")
    from cuekit import losses

    p = torch.from_numpy(CAMS).softmax(1).requires_grad_()
    images = torch.from_numpy(RNG.integers(0, 256, (2, 46, 62, 3), np.uint8))
    tags = torch.from_numpy(PRESENT[:, 1:].copy())
    expected = losses.constrain_to_boundary_loss(p, images, present=tags)
    (slope,) = torch.autograd.grad(expected, p)
    kernel, calls = crf.dense_crf, []

    def on_device(*arrays, **options):  # as if its tensors were on a GPU
        calls.append(arrays)
        with emulated.torch_on_device():
            return kernel(*arrays, **{**options, "present": tags})

    monkeypatch.setattr(crf, "dense_crf", on_device)
    loss = losses.constrain_to_boundary_loss(p, images, present=tags)
    assert len(calls) == 1
    # Q differs from the CPU's by some 1e-6, the rounding of float32 over ten iterations.
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(loss, p)[0], slope, rtol=1e-3, atol=1e-6)


def test_the_energy_loss_runs_on_the_device_of_the_probabilities():
    torch = needs("torch")
    from cuekit import losses

    p = torch.from_numpy(CAMS).softmax(1).requires_grad_()
    images = torch.from_numpy(RNG.integers(0, 256, (2, 23, 31, 3), np.uint8) // 8)
    labels = torch.from_numpy(FINE % 2 * 255)
    roi = torch.from_numpy(FINE > 3)
    results = []
    for place in (nullcontext, emulated.torch_on_device):
        with place():
            loss = losses.dense_energy_loss(p, images, weight=1, roi=roi, labels=labels)
        results.append((loss, torch.autograd.grad(loss, p)[0]))
    # Float32 sums in another order.
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_validate_with_torch_tensors():
    torch = needs("torch")
    cams, labels = torch.from_numpy(CAMS.copy()), torch.from_numpy(FINE.copy())
    labels[0, 0, 0] = 2**31 - 1
    with emulated.torch_on_device():
        means = cuekit.superpixel_mean(cams, labels, validate=True)
        assert means[0, 3, 0, 0] == cams[0, 3, 0, 0]
        labels[0, 0, 0] = 2**31
        with raises(ValueError, "superpixels must be less than 2147483648, got 2147483648"):
            cuekit.superpixel_mean(cams, labels, validate=True)
        cams[1, 2, 3, 4] = torch.nan
        with raises(ValueError, "values must be finite, got nan at index (1, 2, 3, 4)"):
            cuekit.superpixel_mean(cams, labels, validate=True)
        labels[1, 2, 3] = -7
        with raises(ValueError, "superpixels must be at least -1, got -7 at index (1, 2, 3)"):
            cuekit.superpixel_mean(torch.zeros(2, 9, 23, 31), labels, validate=True)


@every(lambda op: op.cuda and len(op.arrays) > 1)
def test_arguments_on_different_devices(device, op):
    first, *others = op.arrays
    with pytest.raises(ValueError, match=r"must be on the CPU, as .* is, got it on .*(cuda|CUDA)"):
        op(first, *map(device.wrap, others))
    with pytest.raises(
        ValueError, match=r"must be on .*(cuda|CUDA).*, as .* is, got it on the CPU"
    ):
        op(device.wrap(first), *others)


def test_tags_may_be_lists(device):
    cams, tags = CAMS[0], PRESENT[0]
    expected = cuekit.subtract_classes(cams, tags)
    result = cuekit.subtract_classes(device.wrap(cams), tags.tolist())
    assert same_bits(device.unwrap(result), expected)


@every(lambda op: not op.cuda)
def test_what_has_no_cuda_kernel_says_so(device, op):
    others = {
        cuekit.snap_cues: "superpixels that are masks must be on the CPU, got an array on",
        cuekit.dense_crf: "image must be RGB of uint8",
    }
    message = others.get(op.function, f"{op.names[0]} must be on the CPU, got an array on")
    with raises(ValueError, message):
        op(*map(device.wrap, op.arrays))


def test_without_kernels():
    message = "arrays on a CUDA device need cuekit's CUDA kernels, which are missing (no nvcc"
    kernels = None, "no nvcc when it was built"
    with emulated.installed(lambda: kernels), raises(ValueError, message):
        cuekit.fuse_cues(emulated.to_device(CUES))


# ------------------------------------------------------------------------------ values and labels


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_validate_finds_what_is_not_finite(device, value):
    cams = CAMS.copy()
    c = int(np.flatnonzero(PRESENT[1])[0])
    cams[1, c, 5, 6] = value
    wrapped, tags = device.wrap(cams), device.wrap(PRESENT)
    message = f"cams must be finite, got {value} at index (1, {c}, 5, 6)"
    for function in (cuekit.subtract_classes, lambda c, p, **o: cuekit.raw_cues(c, None, p, **o)):
        with raises(ValueError, message):
            function(wrapped, tags, validate=True)
        function(wrapped, tags)  # without validate= it is not checked, and does no harm
    with raises(ValueError, message.replace("cams", "scores")):
        cuekit.suppress_absent(wrapped, None, validate=True)
    with raises(ValueError, message.replace("cams", "features[0]")):
        cuekit.background_map(wrapped, validate=True)
    with raises(ValueError, message.replace("cams", "cues")):
        cuekit.snap_cues(wrapped, device.wrap(SUPERPIXELS), validate=True)


def test_maps_of_absent_classes_are_not_validated(device):
    cams = CAMS.copy()
    cams[~PRESENT] = np.nan
    result = cuekit.subtract_classes(device.wrap(cams), device.wrap(PRESENT), validate=True)
    assert same_bits(device.unwrap(result), cuekit.subtract_classes(CAMS, PRESENT))


def test_validate_is_a_bool(device):
    with raises(TypeError, "validate must be True or False, got 'yes'"):
        cuekit.suppress_absent(device.wrap(CAMS), None, validate="yes")


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_labels_out_of_range_are_no_superpixels(device, dtype):
    """Whatever they hold: nothing is read or written out of bounds."""
    labels = FINE.astype(dtype)
    wrong = np.zeros(labels.shape, dtype=bool)
    for index, label in (((0, 0, 0), -1), ((0, 22, 30), np.iinfo(dtype).max), ((1, 5, 5), 40)):
        labels[index], wrong[index] = label, True
    labels[1, 6] = np.iinfo(dtype).min
    wrong[1, 6] = True
    values, superpixels = device.wrap(CAMS), device.wrap(labels)
    means = device.unwrap(cuekit.superpixel_mean(values, superpixels, num_superpixels=40))
    masks = device.unwrap(cuekit.snap_cues(values, superpixels, num_superpixels=40))
    for b in range(2):
        np.testing.assert_array_equal(means[b][:, wrong[b]], CAMS[b][:, wrong[b]])
        level = np.maximum(0.3 * CAMS[b].max((1, 2), keepdims=True), 0)
        at_wrong = reference.resize(CAMS[b], labels[b].shape) > level
        np.testing.assert_array_equal(masks[b][:, wrong[b]], at_wrong[:, wrong[b]])
        right = ~wrong[b]
        expected = reference.superpixel_mean(CAMS[b][:, right][:, None], labels[b][right][None])
        np.testing.assert_allclose(means[b][:, right], expected[:, 0], rtol=1e-6, atol=1e-12)
    least = np.iinfo(dtype).min
    with raises(ValueError, f"superpixels must be at least -1, got {least} at index (1, 6, 0)"):
        cuekit.snap_cues(values, superpixels, validate=True)
    with raises(ValueError, "superpixels must be less than 30, got 39"):
        cuekit.snap_cues(values, device.wrap(FINE), num_superpixels=30, validate=True)


def test_uint8_superpixels_are_told_apart_by_shape(device):
    """Their values are checked with validate= only."""
    labels = (SUPERPIXELS % 2).astype(np.uint8)
    cues, wrapped = device.wrap(CUES), device.wrap(labels)
    result = device.unwrap(cuekit.snap_cues(cues, wrapped))
    assert same_bits(result, cuekit.snap_cues(CUES, labels.astype(int)))
    with raises(ValueError, "superpixels that hold 0 and 1, or 0 and 255, where the dtype is uint"):
        cuekit.snap_cues(cues, wrapped, validate=True)
    stack = device.wrap(np.stack([labels, labels], axis=1))
    for options in ({}, {"validate": True}):
        with raises(ValueError, "superpixels that are masks must be on the CPU, got an array on"):
            cuekit.snap_cues(cues, stack, **options)


def test_sparse_labels_are_renumbered(device):
    labels = FINE.astype(np.int64) * 10**9
    result = cuekit.snap_cues(device.wrap(CUES), device.wrap(labels))
    assert same_bits(device.unwrap(result), cuekit.snap_cues(CUES, FINE))
    with raises(ValueError, "num_superpixels must be at most 713, the number of pixels, got 714"):
        cuekit.snap_cues(device.wrap(CUES), device.wrap(labels), num_superpixels=714)


@pytest.mark.parametrize("count", [0, -1, 2.0, True])
def test_wrong_number_of_superpixels(count):
    with pytest.raises((TypeError, ValueError), match=r"^num_superpixels must be"):
        cuekit.snap_cues(CUES, SUPERPIXELS, num_superpixels=count)


def test_more_images_than_are_worked_on_at_a_time(device):
    """Tables of many possible superpixels bound how many."""
    labels = np.broadcast_to(
        np.arange(300)[:, None] // 50 * 6 + np.arange(300) // 50, (13, 300, 300)
    )
    cues = RNG.random((13, 1, 9, 9)) > 0.7
    result = cuekit.snap_cues(device.wrap(cues), device.wrap(labels), num_superpixels=90_000)
    assert same_bits(device.unwrap(result), cuekit.snap_cues(cues, labels))


@pytest.mark.parametrize("dtype", [bool, np.float64])
def test_more_channels_than_a_table_has(device, dtype):
    cues = (RNG.random((2, 70, 9, 9)) > 0.7).astype(dtype)
    result = cuekit.snap_cues(device.wrap(cues), device.wrap(SUPERPIXELS))
    assert same_bits(device.unwrap(result), cuekit.snap_cues(cues, SUPERPIXELS))
    means = cuekit.superpixel_mean(result, device.wrap(SUPERPIXELS))
    np.testing.assert_array_equal(device.unwrap(means), device.unwrap(result))  # they are flat


def test_many_sets(device):
    sets = [RNG.random((3, 20, 21)) > 0.95 for _ in range(35)]
    result = cuekit.fuse_cues(*map(device.wrap, sets))
    assert same_bits(device.unwrap(result), cuekit.fuse_cues(*sets))


def test_many_channels(device):
    """Channels are added in parts: float64's rounding shows, divided by the range of the sums."""
    features = RNG.random((2, 700, 5, 7))
    result = device.unwrap(cuekit.background_map(device.wrap(features)))
    expected = cuekit.background_map(features)
    sums = features.sum(1)
    span = sums.max((1, 2)) - sums.min((1, 2))
    tolerance = 700 * np.finfo(float).eps * sums.max() / span.min()
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def test_too_many_channels_for_labels(device):
    cues = device.wrap(np.ones((961, 2, 2), dtype=bool))
    with raises(ValueError, "cues must have at most 960 channels on a CUDA device, got 961"):
        cuekit.cues_to_labels(cues, classes=range(256, 1217))
    labels = cuekit.cues_to_labels(cues[:960], classes=range(256, 1216))
    assert (device.unwrap(labels) == 257).all()


# --------------------------------------------------------------------------------------- the build


@pytest.mark.skipif(
    CONFIG["cuda"] is None, reason=f"needs a build with CUDA kernels: {CONFIG['cuda_missing']}"
)
def test_the_module_loads_without_a_gpu(monkeypatch):
    """It has what the emulated one has, and says what it cannot do without a GPU."""
    from cuekit import _cuda

    assert {*dir(emulated.load())} - {*dir(_cuda)} == set()
    assert CONFIG["cuda"] == f"{_cuda.version}: {_cuda.architectures}"
    assert CONFIG["cuda_missing"] == ""
    if has_gpu():
        return
    monkeypatch.setitem(sys.modules, "cupy", emulated.stand_in_for_cupy())
    with pytest.raises(RuntimeError, match=r"^CUDA: "):
        cuekit.fuse_cues(emulated.to_device(CUES))


def setup(*arguments, **environment):
    return subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "setup.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(
    not (ROOT / "setup.py").exists(), reason="needs setup.py: run the tests in a clone"
)
def test_the_variable_cuekit_cuda_is_checked(tmp_path):
    needs("setuptools")
    assert (
        "CUEKIT_CUDA must be auto, 0 or 1, got 'yes'" in setup("--name", CUEKIT_CUDA="yes").stderr
    )
    if shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").exists():
        return
    stderr = setup("--name", CUEKIT_CUDA="1", PATH=str(tmp_path), CUDA_HOME="").stderr
    assert "CUEKIT_CUDA=1, but nvcc is neither on the path nor under CUDA_HOME" in stderr


# ------------------------------------------------------------------------------ what needs a GPU


@needs_gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@every_op
def test_nothing_synchronizes_with_the_device(op):
    import torch

    options = {"num_superpixels": 500} if "superpixels" in op.names else {}
    wrapped = [*map(Cuda.wrap, op.arrays)]
    op(*wrapped, **options)
    try:
        torch.cuda.set_sync_debug_mode("error")
        op(*wrapped, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@every_op
def test_on_a_second_stream(op):
    import torch

    expected = op(*op.arrays)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the inputs are late, on this stream
        result = op(*map(Cuda.wrap, op.arrays))
    stream.synchronize()
    assert_alike(Cuda.unwrap(result), expected, op)


@needs_gpu
@every_op
def test_repeated_calls_leak_nothing(op):
    import torch

    wrapped = [*map(Cuda.wrap, op.arrays)]
    for _ in range(2):
        op(*wrapped)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(20):
        op(*wrapped)
    torch.cuda.synchronize()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


@needs_gpu
@pytest.mark.parametrize("order", ["import torch, cuekit", "import cuekit, torch"])
def test_either_import_order(order):
    program = f"""
{order}
cues = torch.ones(1, 2, 2, dtype=torch.bool, device="cuda")
assert bool(cuekit.fuse_cues(cues).all())
"""
    subprocess.run([sys.executable, "-c", program], check=True)  # noqa: S603


@needs_gpu
def test_more_than_two_to_the_31_elements():
    import torch

    if torch.cuda.mem_get_info()[0] < 20 * 2**30:
        pytest.skip("needs 20 GiB of the GPU's memory")
    cues = torch.zeros(3, 1024, 1024, 1024, dtype=torch.bool, device="cuda")
    cues[-1, -1, -1, -1] = True
    fused = cuekit.fuse_cues(cues, cues)
    assert bool(fused[-1, -1, -1, -1])
    assert int(fused.sum()) == 1
    del cues, fused
    scores = torch.zeros(3, 1024, 1024, 1024, dtype=torch.float16, device="cuda")
    scores[-1, -1, -1, -1] = 1
    result = cuekit.suppress_absent(scores, [[False] * 1023] * 3)
    assert float(result[-1, -1, -1, -1]) < 0
