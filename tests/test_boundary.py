"""The boundary between Python and the compiled kernels: one list of signatures, checked twice.

`cuekit/_kernels.pyi` is compared with what both modules have, and mypy must use it to reject calls.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import emulated
import numpy as np
import numpy.typing as npt
import pytest

import cuekit
from cuekit import _backend, _cpu

if sys.version_info >= (3, 11):
    from typing import assert_type
else:
    from typing_extensions import assert_type
if TYPE_CHECKING:
    from torch import Tensor

PACKAGE = Path(cuekit.__file__).parent
KERNELS = ast.parse((PACKAGE / "_kernels.pyi").read_text())


def protocol(name):
    """Functions with their argument names, and attributes, of a class and its bases."""
    (found,) = [n for n in KERNELS.body if isinstance(n, ast.ClassDef) and n.name == name]
    functions, attributes = {}, set()
    for base in found.bases:
        if base.id != "Protocol":
            inherited = protocol(base.id)
            functions |= inherited[0]
            attributes |= inherited[1]
    for node in found.body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = [argument.arg for argument in node.args.args[1:]]
        elif isinstance(node, ast.AnnAssign):
            attributes.add(node.target.id)
    return functions, attributes


def bound(module):
    """Functions with their argument names, and attributes, of a compiled module."""
    functions, attributes = {}, set()
    for name in dir(module):
        if name.startswith("__"):
            continue
        value = getattr(module, name)
        if callable(value):
            signature = value.__doc__.splitlines()[0]  # as pybind11 writes it
            (function,) = ast.parse(f"def {signature}: ...").body
            functions[name] = [argument.arg for argument in function.args.args]
        else:
            attributes.add(name)
    return functions, attributes


def test_the_cpu_module_is_what_the_protocol_says():
    assert bound(_cpu) == protocol("CpuKernels")


@pytest.mark.skipif(not emulated.wanted(), reason="needs a C++ compiler and pybind11")
def test_the_cuda_bindings_are_what_the_protocol_says():
    assert bound(emulated.load()) == protocol("CudaKernels")


@pytest.mark.skipif(_backend._import_cuda()[0] is None, reason=_backend._import_cuda()[1])
def test_the_cuda_module_is_what_the_protocol_says():
    assert bound(_backend._import_cuda()[0]) == protocol("CudaKernels")


def test_both_backends_have_what_the_shared_protocol_says():
    shared = protocol("Kernels")[0]
    assert shared.items() <= protocol("CpuKernels")[0].items()
    assert shared.items() <= protocol("CudaKernels")[0].items()
    assert all(arguments[-1] == "context" for arguments in shared.values())


CALLS = """\
import numpy as np
import numpy.typing as npt

import cuekit
from cuekit._backend import backend

maps: npt.NDArray[np.float32] = np.ones((1, 2, 3), np.float32)
tags: npt.NDArray[np.bool_] = np.ones((1, 2), np.bool_)
kernels, context = backend(maps, 1)
kernels.subtract(maps, tags, maps, "pairwise", context)
snapped: npt.NDArray[np.bool_] = cuekit.snap_cues(maps, tags, accept="sepl")
"""
MISTAKES = {
    "a misspelt kernel": (
        "kernels.supress(maps, tags, maps, 0.5, context)",
        'has no attribute "supress"',
    ),
    "swapped arguments": (
        'kernels.subtract(maps, tags, "pairwise", maps, context)',
        'Argument 3 to "subtract"',
    ),
    "a missing argument": ("kernels.fuse([maps], maps)", 'Missing positional argument "context"'),
    "a kernel that CUDA lacks": (
        "kernels.snap_masks(maps, tags, tags, 0.3, 'mean', 1)",
        'has no attribute "snap_masks"',
    ),
    "a mode that does not exist": (
        'cuekit.snap_cues(maps, tags, accept="meen")',
        'Argument "accept" to "snap_cues" has incompatible type',
    ),
}


def test_mypy_rejects_wrong_calls(tmp_path):
    pytest.importorskip("mypy", reason="needs mypy: pip install 'cuekit[test]'")
    lines = [*CALLS.splitlines(), *(call for call, _ in MISTAKES.values())]
    (tmp_path / "calls.py").write_text("\n".join(lines) + "\n")
    # Without torch's own types, which would take most of the time.
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = True\nwarn_unused_ignores = False\n"
        "[mypy-torch.*]\nfollow_imports = skip\nignore_missing_imports = True\n"
        "[mypy-cuekit.*]\nfollow_imports = silent\nignore_missing_imports = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "calls.py"]
    done = subprocess.run(  # noqa: S603 - this interpreter
        command,
        cwd=tmp_path,
        env={"MYPYPATH": str(PACKAGE.parent), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    found = {}
    for line in done.stdout.splitlines():
        if match := re.match(r"calls\.py:(\d+): error: (.*)", line):
            found.setdefault(int(match[1]), match[2])
    first = len(CALLS.splitlines()) + 1
    assert sorted(found) == list(range(first, first + len(MISTAKES))), done.stdout + done.stderr
    for number, (name, (_, message)) in enumerate(MISTAKES.items(), first):
        assert message in found[number], name


def test_the_type_of_a_result_follows_the_first_argument() -> None:
    """At run time nothing: mypy checks these lines."""
    cues: npt.NDArray[np.bool_] = np.ones((2, 3, 4), np.bool_)
    assert_type(cuekit.fuse_cues(cues), npt.NDArray[Any])
    assert_type(cuekit.snap_cues(cues, np.zeros((3, 4), np.int32)), npt.NDArray[Any])
    torch = pytest.importorskip("torch")
    tensor: Tensor = torch.from_numpy(cues)
    assert_type(cuekit.fuse_cues(tensor), "Tensor")
    assert_type(cuekit.cues_to_labels(tensor, overlap="ignore"), "Tensor")
