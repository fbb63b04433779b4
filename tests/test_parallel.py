"""Threads, instruction sets, forks and workers of data loaders: the same bits, and no hang.

Programs that could hang run in a process of their own with a time limit: this file, called with the
name of one of them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from common import INSTRUCTION_SETS, instruction_set, needs, set_instruction_set
from hypothesis import given
from hypothesis import strategies as st
from ops import make_inputs, table
from strategies import FLOATS, THREADS, same_bits

import cuekit

# Larger than the blocks that every kernel works on, and no multiple of any of them.
INPUTS = make_inputs(3, (150, 157))
OPS = {name: op for name, op in table(INPUTS).items() if op.compiled}
CUES, BLOCKS = INPUTS.cues, INPUTS.blocks


def call(name, **options):
    return OPS[name](*OPS[name].arrays, **options)


def bits(**options):
    return {name: call(name, **options).tobytes() for name in OPS}


def assert_same(results, expected):
    assert [name for name in OPS if results[name] != expected[name]] == []


@pytest.fixture(scope="module")
def serial():
    set_instruction_set("baseline")
    return bits(threads=1)


# -------------------------------------------------------------------------- in this process


@pytest.mark.parametrize("instructions", INSTRUCTION_SETS)
@pytest.mark.parametrize("threads", [*THREADS, 3, None])
def test_same_bits(serial, instructions, threads):
    set_instruction_set(instructions)
    assert_same(bits(threads=threads), serial)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(FLOATS),
    st.sampled_from([1, 5, 8, 11]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_same_bits_for_every_dtype(seed, dtype, channels, size):
    """Rows that end anywhere in a vector register; signed zeros."""
    rng = np.random.default_rng(seed)
    maps = (rng.integers(-3, 4, (channels, *size)) * rng.choice([0.1, -0.0, 1e-4])).astype(dtype)
    present = rng.random(channels) < 0.7
    superpixels = rng.integers(0, 9, size)
    photo = rng.integers(0, 256, (*size, 3), np.uint8)
    calls = [
        *(
            lambda n, mode=mode: cuekit.subtract_classes(maps, present, mode=mode, threads=n)
            for mode in ("pairwise", "strongest", "dcsm")
        ),
        lambda n: cuekit.background_map(maps, threads=n),
        lambda n: cuekit.superpixel_mean(maps, superpixels, threads=n),
        lambda n: cuekit.suppress_absent(maps, present[1:], threads=n),
        lambda n: cuekit.refine_local(maps, photo, iterations=2, threads=n),
    ]
    if channels > 1:
        likely = maps.clip(0, 1)
        calls.append(
            lambda n: cuekit.dense_crf(likely, photo, present=present[1:], iterations=2, threads=n)
        )
    set_instruction_set("baseline")
    expected = [each(1) for each in calls]
    for name in INSTRUCTION_SETS[1:]:
        set_instruction_set(name)
        for each, first in zip(calls, expected, strict=True):
            assert same_bits(each(1), first)
            assert same_bits(each(8), first)


def test_instruction_sets_fall_back_to_what_the_processor_has():
    for i, name in enumerate(INSTRUCTION_SETS):
        set_instruction_set(name)
        assert instruction_set() in INSTRUCTION_SETS[: i + 1]
    with pytest.raises(ValueError, match=r"^no such choice: sse$"):
        set_instruction_set("sse")


def test_many_python_threads_at_once(serial):
    barrier = threading.Barrier(8)

    def work(_):
        barrier.wait(timeout=60)
        return [bits(threads=2) for _ in range(2)]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(work, range(8)):
            for each in results:
                assert_same(each, serial)


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="needs a free-threaded Python"
)
def test_importing_it_switches_no_gil_on():
    code = "import sys, warnings; warnings.simplefilter('error'); import cuekit._cpu"
    code += "; sys.exit(sys._is_gil_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)  # noqa: S603


def test_an_error_in_a_worker_reaches_the_caller_and_the_pool_lives_on(serial):
    wrong = np.full((8, 150, 157), -2)
    for _ in range(20):
        with pytest.raises(ValueError, match=r"^superpixels must be at least -1, got -2$"):
            cuekit.superpixel_mean(np.ones((8, 1, 150, 157)), wrong, threads=4)
    assert_same(bits(threads=4), serial)


def test_denormals_do_not_depend_on_the_caller_s_flags():
    """Frameworks switch denormals off per thread; the pool's threads must not depend on that."""
    torch = needs("torch")
    maps = np.full((8, 64, 64), 1e-40, dtype=np.float32)
    expected = [cuekit.raw_cues(maps, threads=threads) for threads in (1, 4)]
    assert all(cues[1:].all() for cues in expected)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor keeps denormals")
    try:
        for threads in (1, 4):
            assert np.array_equal(cuekit.raw_cues(maps, threads=threads), expected[0])
        assert float(torch.tensor(1e-40) * 1) == 0.0, "the caller's own state is restored"
    finally:
        torch.set_flush_denormal(False)


# -------------------------------------------------------------------- in processes of their own


@contextlib.contextmanager
def forking_with_threads():
    """Python 3.12 warns of forking with threads around, which is what is tested here."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r".*multi-threaded, use of fork\(\)", category=DeprecationWarning
        )
        yield


def start_child(work):
    """Fork a child that exits with 0 if `work` returns true; a child that hangs is ended."""
    with forking_with_threads():
        child = os.fork()
    if child == 0:
        done = False
        with contextlib.suppress(BaseException):  # a child must not go on with the parent's work
            signal.alarm(60)
            done = work()
        os._exit(0 if done else 1)
    return child


def exit_code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork():
    """A child of a process whose pool has been used."""
    expected = bits(threads=2)

    def in_child():
        same = bits(threads=2) == expected
        # It has started a thread of its own: the parent's are not in the child.
        tasks = Path("/proc/self/task")
        return same and (not tasks.exists() or len(list(tasks.iterdir())) == 2)

    assert exit_code(start_child(in_child)) == 0
    assert bits(threads=2) == expected


def fork_while_busy():
    """Children of a process whose pool is in use at that moment, so that locks may be held."""
    expected = call("subtract_classes, dcsm", threads=2).tobytes()
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            call("subtract_classes, dcsm", threads=2)

    threads = [threading.Thread(target=keep_busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    children = [
        start_child(lambda: call("subtract_classes, dcsm", threads=2).tobytes() == expected)
        for _ in range(20)
    ]
    codes = [exit_code(child) for child in children]
    stop.set()
    for thread in threads:
        thread.join()
    assert not any(codes), codes


class Photos:
    """A data set for torch's loader, whose workers compute the items."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        import torch

        cues = torch.from_numpy(CUES[index % 3])
        return cuekit.snap_cues(cues, BLOCKS[index % 3], threads=2)


def load(context):
    """A loader with one worker, after the parent used its pool."""
    import torch

    expected = cuekit.snap_cues(CUES, BLOCKS, threads=2)
    with forking_with_threads():
        loader = torch.utils.data.DataLoader(
            Photos(), batch_size=2, num_workers=1, multiprocessing_context=context, timeout=60
        )
        batches = list(loader)
    assert len(batches) == 2
    for i, cues in enumerate(torch.cat(batches)):
        assert same_bits(cues.numpy(), expected[i % 3])


def huge_label():
    """With too little address space for a table with an entry for each possible label."""
    import resource

    values, superpixels = np.ones((1, 64, 64)), np.zeros((64, 64), np.int64)
    superpixels[5, 6] = 2**31 - 2
    cuekit.snap_cues(values, superpixels, threads=2)  # what threads reserve is not counted
    with Path("/proc/self/statm").open() as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
    np.testing.assert_array_equal(cuekit.superpixel_mean(values, superpixels), values)
    assert cuekit.snap_cues(values, superpixels).all()


PROGRAMS = {
    "fork": fork,
    "fork_while_busy": fork_while_busy,
    "load_fork": lambda: load("fork"),
    "load_spawn": lambda: load("spawn"),
    "huge_label": huge_label,
}


def run_program(name):
    """Run it; a hang fails, since the time limit is far above what any program takes."""
    done = subprocess.run(  # noqa: S603 - this file
        [sys.executable, "-W", "error", __file__, name],
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


needs_fork = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="needs os.fork, which Windows lacks"
)


@needs_fork
@pytest.mark.parametrize("program", ["fork", "fork_while_busy"])
def test_forked_child(program):
    run_program(program)


@pytest.mark.parametrize("context", ["spawn", pytest.param("fork", marks=needs_fork)])
def test_worker_of_a_data_loader(context):
    needs("torch")
    run_program(f"load_{context}")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, to limit the address space")
def test_a_large_label_takes_no_memory():
    run_program("huge_label")


if __name__ == "__main__":
    PROGRAMS[sys.argv[1]]()
