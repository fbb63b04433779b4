"""Inputs for the kernels, and ways to call a public function that must not change its result.

Every comparison with an oracle draws a number of threads, an instruction set, a memory layout,
leading dimensions and a front end: if all of them equal the oracle, they equal each other.
"""

import importlib.util
from contextlib import nullcontext
from typing import NamedTuple

import emulated
import numpy as np
from common import INSTRUCTION_SETS, set_instruction_set
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import cuekit

CUES = ("bool", "uint8")
FLOATS = ("float16", "float32", "float64")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
THREADS = (1, 2, 8)

batches = st.sampled_from([(), (), (), (1,), (2,), (3,), (2, 2), (0,), (0, 2)])
sides = st.integers(1, 9)
# Some exceed the blocks of eight channels, and the tiles of pixels, that kernels work on.
channel_counts = st.sampled_from([1, 2, 3, 4, 7, 8, 9, 17])
sizes = st.one_of(
    st.tuples(sides, sides),
    st.sampled_from([(1, 1), (1, 40), (40, 1), (13, 31), (67, 33), (130, 129)]),
)


# ----------------------------------------------------------------------------------- front ends


class NumPy:
    """NumPy in, NumPy out."""

    name = "numpy"
    active = nullcontext

    @staticmethod
    def wrap(array):
        return array

    @staticmethod
    def unwrap(result):
        assert type(result) is np.ndarray
        return result


class Torch:
    """Torch in, torch out."""

    name = "torch"
    active = nullcontext

    @staticmethod
    def wrap(array):
        import torch

        if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
            array = array.copy()  # torch has neither
        return torch.from_numpy(array)

    @staticmethod
    def unwrap(result):
        import torch

        assert type(result) is torch.Tensor
        assert result.device.type == "cpu"
        return result.numpy()


class EmulatedCuda:
    """The CUDA kernels, run on the CPU, on arrays of a stand-in for CuPy."""

    name = "cuda, emulated"
    active = staticmethod(emulated.installed)

    @staticmethod
    def wrap(array):
        return emulated.to_device(array)

    @staticmethod
    def unwrap(result):
        assert type(result) is emulated.ndarray
        return np.array(result)


class Cuda:
    """The CUDA kernels, on torch's tensors."""

    name = "cuda"
    active = nullcontext

    @staticmethod
    def wrap(array):
        return Torch.wrap(array).cuda()

    @staticmethod
    def unwrap(result):
        assert result.device.type == "cuda"
        return result.cpu().numpy()


def has_gpu():
    if not importlib.util.find_spec("torch"):
        return False
    import torch

    return torch.cuda.is_available()


FRONT_ENDS = [NumPy, Torch] if importlib.util.find_spec("torch") else [NumPy]
DEVICES = [EmulatedCuda] if emulated.wanted() else []
DEVICES += [Cuda] if has_gpu() else []
NO_DEVICE = "needs a C++ compiler and pybind11, or a GPU: pip install pybind11, apt install g++"


# ---------------------------------------------------------------------------------------- arrays


def memory_orders(array):
    """Equal arrays that lie differently in memory."""
    wide = np.zeros(tuple(2 * n for n in array.shape), array.dtype)
    strided = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    strided[...] = array
    reverse = tuple(slice(None, None, -1) for _ in array.shape)
    return [array, np.asfortranarray(array), strided, array[reverse].copy()[reverse]]


@st.composite
def reordered(draw, array):
    return memory_orders(array)[draw(st.integers(0, 3))]


@st.composite
def float_maps(draw, shape, dtype):
    """Finite maps: any values, values with many ties, constants, nothing positive, noise."""
    dtype = np.dtype(dtype)
    kind = draw(st.sampled_from(["any", "ties", "constant", "negative", "noise"]))
    if kind == "any" and np.prod(shape) <= 300:
        # Differences must fit in the dtype, and sums in float64.
        limit = min(float(np.finfo(dtype).max) / 4, 1e100)
        values = st.floats(-limit, limit, width=8 * dtype.itemsize)
        array = draw(hnp.arrays(dtype, shape, elements=values))
    else:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        if kind == "ties":
            array = rng.integers(-2, 4, shape) / 4
        elif kind == "constant":
            array = np.full(shape, draw(st.sampled_from([-1.5, 0.0, -0.0, 0.1, 3.0])))
        elif kind == "negative":
            array = -rng.integers(0, 3, shape) / 4
        else:
            array = rng.normal(size=shape)
    return draw(reordered(array.astype(dtype)))


@st.composite
def masks(draw, shape, dtype="bool"):
    """Cues: bool, or uint8 that holds 0 and 1, or 0 and 255."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    array = rng.random(shape) < draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    if dtype == "uint8":
        array = array * np.uint8(draw(st.sampled_from([1, 255])))
    return draw(reordered(array.astype(dtype)))


@st.composite
def cue_maps(draw, shape):
    """Cues as snapping takes them: masks or maps."""
    dtype = draw(st.sampled_from((*CUES, *FLOATS)))
    return draw(float_maps(shape, dtype) if dtype in FLOATS else masks(shape, dtype))


@st.composite
def photos(draw, batch=(), channel_counts=(1, 2, 3, 4), largest=24):
    """Patches of flat colour with noise, which have something to segment."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    channels = draw(st.sampled_from(channel_counts))
    patches = rng.integers(0, 256, (*batch, 4, 4, channels))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    photo = patches[..., rows[:, None], columns, :]
    photo = (photo + rng.integers(-9, 10, photo.shape)).clip(0, 255)
    dtype = draw(st.sampled_from(["uint8", *FLOATS]))
    return photo.astype(np.uint8) if dtype == "uint8" else (photo / 255).astype(dtype)


@st.composite
def tags(draw, shape):
    """Present classes: none, one, some, all."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return rng.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.5, 1.0]))


def _could_be_masks(array):
    return {*np.unique(array).tolist()} <= {0, 1} or {*np.unique(array).tolist()} <= {0, 255}


@st.composite
def label_maps(draw, shape, dtypes=INTEGERS):
    """Superpixels: one, one per pixel, few large ones, scattered labels with large gaps.

    In signed dtypes also pixels in no superpixel: some, most, all of them.
    """
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    largest = min(np.iinfo(dtype).max, 2**31 - 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["one", "each", "blocks", "noise", "gaps"]))
    height, width = shape[-2:]
    if kind == "one":
        array = np.full(shape, draw(st.sampled_from([0, 1, largest])))
    elif kind == "each":
        array = np.broadcast_to(np.arange(height * width).reshape(height, width), shape)
        array = array % (largest + 1)
    elif kind == "blocks":
        rows, columns = np.ogrid[:height, :width]
        block = draw(st.integers(1, 20))
        array = np.broadcast_to(rows // block * (width // block + 1) + columns // block, shape)
        array = array % (largest + 1)
    elif kind == "noise":
        array = rng.integers(0, min(4, largest), shape)
    else:
        array = rng.choice(np.array([0, 3, largest - 1, largest]), shape)
    if dtype.kind == "i" and draw(st.booleans()):
        array = np.where(rng.random(shape) < draw(st.sampled_from([0.05, 0.7, 1.0])), -1, array)
    if dtype == np.uint8 and len(shape) > 2 and _could_be_masks(array):
        dtype = np.dtype(np.uint16)  # snap_cues refuses it in uint8: it could be masks
    return draw(reordered(array.astype(dtype)))


@st.composite
def graphs(draw, largest=40):
    """Of connected and scattered superpixels, with colours that are alike or far apart."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    superpixels = rng.integers(0, draw(st.integers(1, largest)), shape)
    if draw(st.booleans()):
        superpixels = superpixels.repeat(3, 0).repeat(2, 1)
    if draw(st.booleans()):
        superpixels[rng.random(superpixels.shape) < 0.6] = -1  # isolated ones, and several parts
    contrast = draw(st.sampled_from([0, 30, 255]))
    image = rng.integers(0, contrast, (*superpixels.shape, 3), np.uint8, endpoint=True)
    # Flat colours: means of noise are gray.
    image = image.reshape(-1, 3)[superpixels.ravel() % len(image.reshape(-1, 3))]
    return cuekit.superpixel_graph(superpixels, image.reshape(*superpixels.shape, 3))


# ------------------------------------------------------------------------------------------ runs


class Run(NamedTuple):
    """How to call a function: nothing of this may change its result."""

    front_end: type
    threads: int
    instruction_set: str

    def __call__(self, function, *arrays, **options):
        """Call, and check that the inputs are as before and that the framework is kept."""
        before = [None if array is None else array.copy() for array in arrays]
        set_instruction_set(self.instruction_set)
        with self.front_end.active():
            wrapped = [None if array is None else self.front_end.wrap(array) for array in arrays]
            result = self.front_end.unwrap(function(*wrapped, threads=self.threads, **options))
            if self.on_device:  # where threads run in another order
                again = function(*wrapped, threads=self.threads, **options)
                assert same_bits(self.front_end.unwrap(again), result)
        for array, was in zip(arrays, before, strict=True):
            assert array is None or same_bits(array, was)
        assert result.flags.c_contiguous
        return result

    @property
    def on_device(self):
        return self.front_end in DEVICES


def runs_of(front_ends):
    return st.builds(
        Run,
        st.sampled_from(front_ends),
        st.sampled_from(THREADS),
        st.sampled_from(INSTRUCTION_SETS),
    )


cpu_runs = runs_of(FRONT_ENDS)  # of what has no CUDA kernel
runs = runs_of([*FRONT_ENDS, *DEVICES])


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def by_image(oracle, batch, *arrays):
    """The oracle over leading dimensions, one image after the other."""

    def image(array, index):
        return None if array is None else np.ascontiguousarray(array[index])

    results = [oracle(*(image(array, index) for array in arrays)) for index in np.ndindex(batch)]
    if results:
        return np.stack(results).reshape(*batch, *results[0].shape)
    blank = [None if a is None else np.zeros(a.shape[len(batch) :], a.dtype) for a in arrays]
    result = oracle(*blank)
    return np.zeros((*batch, *result.shape), result.dtype)


def assert_equal(result, expected):
    """Equal values and dtype.

    The sign of zero may differ: it depends on the order of a maximum's arguments, for which
    NumPy gives no promise either. test_parallel compares the bits of the versions of a kernel.
    """
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result, expected)
