"""What all functions share: frameworks, memory, batches, threads, and the wording of errors."""

import inspect
import re

import numpy as np
import pytest
from common import adopt, like, needs
from ops import ON_GRAPHS, OPS, every, every_argument
from strategies import FRONT_ENDS, memory_orders, same_bits

import cuekit


def replaced(values, index, value):
    return [value if i == index else each for i, each in enumerate(values)]


def raises(error, message):
    return pytest.raises(error, match=f"^{re.escape(message)}")


# --------------------------------------------------------------------------------------- the table


def test_every_public_function_is_in_the_table():
    functions = [getattr(cuekit, name) for name in cuekit.__all__]
    functions = [each for each in functions if inspect.isfunction(each)]
    with_arguments = {each for each in functions if inspect.signature(each).parameters}
    assert {op.function for op in OPS.values()} == with_arguments - ON_GRAPHS


@every()
def test_the_table_names_parameters_and_has_inputs_that_matter(op):
    assert {re.split(r"[\[.]", name)[0] for name in op.names} <= set(op.parameters)
    assert all(len(array) == 2 for array in op.arrays)
    first, second = op(*op.arrays)
    assert len(np.unique(first)) > 1
    assert not np.array_equal(first, second)


# ------------------------------------------------------------------------- memory and frameworks


@every()
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_batch_is_a_loop_and_inputs_stay(op, front_end):
    before = [array.copy() for array in op.arrays]
    result = front_end.unwrap(op(*map(front_end.wrap, op.arrays)))
    for image in range(2):
        alone = op(*(array[image] for array in op.arrays))
        assert same_bits(result[image], alone)
        deep = op(*(array[None, image : image + 1] for array in op.arrays))
        assert same_bits(deep, alone[None, None])
    for array, was in zip(op.arrays, before, strict=True):
        assert same_bits(array, was)


def memory(array):
    """The array that owns the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@every()
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_result_is_memory_of_its_own(op, front_end):
    """Of no argument, of no other result, of nothing that is kept between calls, and no more."""
    arrays = [*map(front_end.wrap, op.arrays)]
    first, second = (front_end.unwrap(op(*arrays)) for _ in range(2))
    assert first.flags.writeable
    assert memory(first).nbytes == first.nbytes
    assert not any(np.shares_memory(first, front_end.unwrap(array)) for array in arrays)
    assert not np.shares_memory(first, second)
    first.view(np.uint8)[...] ^= 0xFF
    third = front_end.unwrap(op(*arrays))
    assert same_bits(third, second)


@every_argument()
def test_any_memory_order(op, index):
    expected = op(*op.arrays)
    for array in memory_orders(op.arrays[index]):
        assert same_bits(op(*replaced(op.arrays, index, array)), expected)


@every_argument()
def test_read_only_and_broadcast_arrays(op, index):
    alike = [np.ascontiguousarray(np.broadcast_to(a[:1], a.shape)) for a in op.arrays]
    expected = op(*alike)
    frozen = np.broadcast_to(op.arrays[index][:1], op.arrays[index].shape)
    assert not frozen.flags.writeable
    assert same_bits(op(*replaced(alike, index, frozen)), expected)


@every_argument()
def test_unaligned_arrays(op, index):
    array = op.arrays[index]
    raw = np.zeros(array.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(array.dtype).reshape(array.shape)
    unaligned[...] = array
    result = op(*replaced(op.arrays, index, unaligned))
    assert same_bits(result, op(*op.arrays))


@every()
def test_the_first_argument_decides_the_framework(op):
    torch = needs("torch")
    expected = op(*op.arrays)
    first = torch.from_numpy(op.arrays[0])
    mixed = op(first, *op.arrays[1:])  # NumPy superpixels with torch cues is the normal call
    assert type(mixed) is torch.Tensor
    assert same_bits(mixed.numpy(), expected)
    if len(op.arrays) > 1:
        others = [torch.from_numpy(array) for array in op.arrays[1:]]
        assert same_bits(op(op.arrays[0], *others), expected)


@every()
def test_torch_views(op):
    torch = needs("torch")
    expected = op(*op.arrays)
    transposed = [torch.from_numpy(a.T.copy()).permute(*range(a.ndim)[::-1]) for a in op.arrays]
    assert not transposed[0].is_contiguous()
    assert same_bits(op(*transposed).numpy(), expected)
    alike = [np.ascontiguousarray(np.broadcast_to(a[:1], a.shape)) for a in op.arrays]
    expanded = [torch.from_numpy(a[:1]).expand(*a.shape) for a in op.arrays]
    assert same_bits(op(*expanded).numpy(), op(*alike))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool", "uint8", "int64"])
def test_adopting_copies_nothing(dtype):
    torch = needs("torch")
    array = np.ones((3, 4), dtype)
    assert np.shares_memory(adopt(array, "array"), array)
    tensor = torch.from_numpy(array.copy())
    for each in (tensor, tensor.T, tensor[1:, ::2], torch.nn.Parameter(tensor, False)):
        adopted = adopt(each, "tensor")
        assert adopted.ctypes.data == each.data_ptr()
        assert adopted.shape == tuple(each.shape)
    result = np.ones((3, 4), dtype)
    assert like(result, tensor).data_ptr() == result.ctypes.data
    assert like(result, array) is result


@every(lambda op: op.floating and not op.gradient)
def test_tensor_that_requires_grad(op):
    torch = needs("torch")
    first = torch.from_numpy(op.arrays[0].copy()).requires_grad_()
    with raises(ValueError, f"{op.names[0]} requires grad, and this function has no gradient"):
        op(first, *op.arrays[1:])
    with pytest.raises(ValueError, match="detach first"):
        op(first, *op.arrays[1:])
    expected = op(*op.arrays)
    with torch.no_grad():
        result = op(first, *op.arrays[1:])
    assert not result.requires_grad
    assert same_bits(result.numpy(), expected)
    assert same_bits(op(first.detach(), *op.arrays[1:]).numpy(), expected)


@every_argument()
def test_tensors_of_other_kinds(op, index):
    torch = needs("torch")
    name = op.names[index]
    tensor = torch.from_numpy(op.arrays[index])
    with raises(ValueError, f"{name} must be on the CPU or a CUDA device, got a tensor on meta"):
        op(*replaced(op.arrays, index, tensor.to("meta")))
    with raises(TypeError, f"{name} must be a dense tensor, got layout torch.sparse_coo"):
        op(*replaced(op.arrays, index, tensor.to_sparse()))
    with raises(TypeError, f"{name} must have a dtype that NumPy knows, got bfloat16"):
        op(*replaced(op.arrays, index, tensor.bfloat16()))
    lazy = torch.complex(torch.zeros(tensor.shape), tensor.float()).conj().imag
    assert lazy.is_neg()
    with raises(TypeError, f"{name} must not be a lazy view"):
        op(*replaced(op.arrays, index, lazy))


# --------------------------------------------------------------------------------- wrong arrays


class Foreign:
    """An array of a framework that is not supported."""

    def __array__(self, *_, **__):
        raise AssertionError("must not be converted")


@every_argument()
def test_what_is_no_array(op, index):
    name = op.names[index]
    for value in ("abc", 3.0, Foreign(), np.float32(3), {}):
        message = f"{name} must be a NumPy array or a torch tensor, got {type(value).__name__}"
        with raises(TypeError, message):
            op(*replaced(op.arrays, index, value))
    if name != "present":
        with raises(TypeError, f"{name} must be a NumPy array or a torch tensor, got list"):
            op(*replaced(op.arrays, index, op.arrays[index].tolist()))
    masked = np.ma.masked_array(op.arrays[index])
    with raises(TypeError, f"{name} must be a plain NumPy array, got a masked array"):
        op(*replaced(op.arrays, index, masked))


@every_argument()
@pytest.mark.parametrize("dtype", ["object", "complex128", "datetime64[s]", "S1", "longdouble"])
def test_dtypes_that_no_function_takes(op, index, dtype):
    array = op.arrays[index]
    if dtype == "longdouble" and np.dtype(dtype).itemsize == 8:
        pytest.skip("long double is float64 here")
    wrong = array.astype(bool).astype(np.int64).astype(dtype)
    with pytest.raises(
        TypeError, match=f"^{re.escape(op.names[index])} must (have|hold) .*dtype.*, got "
    ):
        op(*replaced(op.arrays, index, wrong))


@every_argument()
def test_foreign_byte_order(op, index):
    array = op.arrays[index]
    if array.dtype.itemsize == 1:
        array = array.astype(np.int16)
    swapped = array.astype(array.dtype.newbyteorder())
    with raises(
        TypeError, f"{op.names[index]} must have native byte order, got dtype {swapped.dtype.str}"
    ):
        op(*replaced(op.arrays, index, swapped))


@every_argument()
def test_too_few_dimensions(op, index):
    name = op.names[index]
    for shape in ((), (3,)):
        wrong = np.zeros(shape, op.arrays[index].dtype)
        with pytest.raises(
            ValueError,
            match=rf"^{re.escape(name)} must have shape .*, got \({shape[0] if shape else ''}",
        ):
            op(*replaced(op.arrays, index, wrong))


@every_argument(lambda op: len(op.arrays) > 1)
def test_batches_that_do_not_match(op, index):
    array = op.arrays[index]
    for wrong in (array[:1], array[0], array[None], np.concatenate([array, array])):
        with pytest.raises(ValueError, match=r"^\S+ must have shape .* to match \S+, .*got \("):
            op(*replaced(op.arrays, index, wrong))


# -------------------------------------------------------------------------------------- present


every_op_with_tags = every(lambda op: "present" in op.names)


@every_op_with_tags
def test_present_with_an_entry_for_the_background(op):
    index = op.names.index("present")
    tags = op.arrays[index]
    long = np.concatenate([np.ones((2, 1), dtype=bool), tags], axis=1)
    message = (
        f"present must have shape {tags.shape} to match {op.names[0]}, got {long.shape}; "
        "the background is not listed"
    )
    with raises(ValueError, message):
        op(*replaced(op.arrays, index, long))
    with pytest.raises(ValueError, match=r"^present must have shape .*, got \(2, 3\)$"):
        op(*replaced(op.arrays, index, tags[:, :3]))


@every_op_with_tags
def test_present_of_another_dtype(op):
    index = op.names.index("present")
    tags = op.arrays[index]
    expected = op(*op.arrays)
    for dtype in (int, float, np.uint8):
        assert same_bits(op(*replaced(op.arrays, index, tags.astype(dtype))), expected)
        assert same_bits(op(*replaced(op.arrays, index, tags.astype(dtype).tolist())), expected)
    with raises(ValueError, "present must hold 0 or 1 for each foreground class, got 2"):
        op(*replaced(op.arrays, index, tags * 2))
    with raises(TypeError, "present must hold bool, or 0 and 1 of any dtype"):
        op(*replaced(op.arrays, index, tags.astype(str)))


@every_op_with_tags
def test_present_from_lists(op):
    index = op.names.index("present")
    expected = op(*op.arrays)
    tags = op.arrays[index].tolist()
    assert same_bits(op(*replaced(op.arrays, index, tags)), expected)
    assert same_bits(op(*replaced(op.arrays, index, tuple(map(tuple, tags)))), expected)
    with pytest.raises(ValueError, match=r"^present must "):
        op(*replaced(op.arrays, index, [tags[0], tags[1][:-1]]))  # ragged


# -------------------------------------------------------------------------------------- threads


@every(lambda op: op.threads)
@pytest.mark.parametrize(
    ("threads", "error", "rule"),
    [
        (0, ValueError, "at least 1"),
        (-1, ValueError, "at least 1"),
        (True, TypeError, "an integer"),
        (1.5, TypeError, "an integer"),
        ("2", TypeError, "an integer"),
    ],
)
def test_wrong_threads(op, threads, error, rule):
    with pytest.raises(error, match=f"^threads must be {rule}, got {threads!r}$"):
        op(*op.arrays, threads=threads)


@every(lambda op: op.threads)
def test_any_number_of_threads_is_accepted(op):
    expected = op(*op.arrays)
    for threads in (None, np.int64(2), 3, 64, 2**40):
        assert same_bits(op(*op.arrays, threads=threads), expected)


@every()
def test_options_are_keywords(op):
    """Positional are the arrays, what has no default, and what scikit-image takes so.

    Of two arrays of which one is given, the more common one.
    """
    positional = {p.name for p in op.parameters.values() if p.kind is not p.KEYWORD_ONLY}
    arrays = {re.split(r"[\[.]", name)[0] for name in op.names}
    known = {"num_classes", "params", "preset", "size", "scale", "sigma", "min_size", "boundary"}
    assert positional - arrays <= known
    if not any(p.kind is p.VAR_POSITIONAL for p in op.parameters.values()):
        with pytest.raises(TypeError, match="positional argument"):
            op.function(*op.arrays, *[None] * len(positional))


def test_bytes_of_a_bool_view_other_than_0_and_1():
    """Masks of 0 and 255 viewed as bool are common; True is True whatever byte it is."""
    odd = np.array([0, 2, 255], dtype=np.uint8).view(np.bool_)
    plain = np.array([False, True, True])
    maps = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    for call in (
        lambda tags: cuekit.subtract_classes(maps, tags),
        lambda tags: cuekit.raw_cues(maps, None, tags),
        lambda tags: cuekit.suppress_absent(np.concatenate([maps[:1], maps]), tags),
        lambda tags: cuekit.dense_crf(
            np.concatenate([maps[:1], maps]) / 12, np.zeros((2, 2, 3), np.uint8), present=tags
        ),
        lambda tags: cuekit.superpixel_mean(tags[None, None], np.array([[0, 0, 1]])),
        lambda tags: cuekit.snap_cues(tags[None, None], np.array([[0, 0, 1]])),
        lambda tags: cuekit.snap_cues(np.array([[[1.0, 0.0, 1.0]]]), tags[None, None]),
        lambda tags: cuekit.fuse_cues(tags[None, None]),
        lambda tags: cuekit.raw_cues(np.ones((1, 1, 3)), tags[None]),
    ):
        assert call(odd).tobytes() == call(plain).tobytes()
