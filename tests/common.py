"""What all tests share: Hypothesis profiles, figures, data sets, reasons for skipping."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from cuekit import _arrays, _cpu

ROOT = Path(__file__).parent.parent

# ------------------------------------------------------------------------------------ Hypothesis

# CI draws the same examples in every run, so that a failure there is a failure of the change.
# No deadline: a first call starts threads, and shared machines stall.
IN_CI = os.environ.get("CI", "").lower() == "true"
EXAMPLES = int(os.environ.get("CUEKIT_TEST_EXAMPLES", "500" if IN_CI else "50"))
settings.register_profile("default", deadline=None, max_examples=EXAMPLES)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if IN_CI else "default")


def at_most(examples):
    """Decorate a test whose examples are slow: draw fewer where the profile asks for more."""
    return settings(max_examples=min(examples, EXAMPLES))


# --------------------------------------------------------------------------------------- figures


@pytest.fixture
def figures(request):
    """Measured numbers: lines that are printed at the end of the run, whether tests pass or not."""
    lines = []
    yield lines
    # Properties of a test reach the report from other processes, too.
    request.node.user_properties += [("figure", line) for line in lines]


PRINTED = pytest.StashKey[bool]()


def pytest_terminal_summary(terminalreporter, config):
    if config.stash.get(PRINTED, False):  # several conftest files have this hook
        return
    config.stash[PRINTED] = True
    reports = [report for some in terminalreporter.stats.values() for report in some]
    lines = [
        value
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, value in report.user_properties
        if name == "figure"
    ]
    if lines:
        terminalreporter.section("figures")
        for line in sorted(lines):
            terminalreporter.write_line(line)


# -------------------------------------------------------------------------------- the command

# `cuekit`, followed by arguments, as a process that Ctrl-C ends. A program that is started in the
# background by a shell inherits that SIGINT is ignored.
CUEKIT = [
    sys.executable,
    "-c",
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from cuekit.__main__ import main; sys.exit(main(sys.argv[1:]))",
]


def children(pid):
    """Return the processes that a process has started, and theirs; needs Linux's /proc."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(status.parent.name)
            found += [child, *children(child)]
    return found


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# --------------------------------------------------------------------------- what may be missing

DATA = Path(os.environ.get("CUEKIT_DATA", ROOT.parent / "shared" / "data"))
VOC = DATA / "voc-animals"

INSTALL = {
    "matplotlib": "'cuekit[plot]'",
    "pydensecrf": "pydensecrf2",
    "pytorch_grad_cam": "'cuekit[test-networks]'",
    "scipy": "scipy",
    "segment_anything": "'cuekit[test-networks]'",
    "setuptools": "setuptools",
    "skimage": "'cuekit[superpixels]'",
    "timm": "'cuekit[test-networks]'",
    "torch": "'cuekit[torch]'",
    "torchcam": "'cuekit[test-networks]'",
    "torchvision": "'cuekit[test-networks]'",
    "tqdm": "'cuekit[voc]'",
}


def needs_data(*paths):
    """Mark tests that are skipped where `paths` of the data folder are missing."""
    missing = ", ".join(str(path.relative_to(DATA)) for path in paths if not path.exists())
    return pytest.mark.skipif(
        bool(missing), reason=f"needs {missing} in the data folder: set CUEKIT_DATA to its path"
    )


def needs(module):
    """Import a package that is optional, or skip the test."""
    package = module.split(".")[0]
    return pytest.importorskip(module, reason=f"needs {package}: pip install {INSTALL[package]}")


# ------------------------------------------------------------------------- not public, tested here

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
instruction_set = _cpu.instruction_set
set_instruction_set = _cpu.set_instruction_set
adopt, like = _arrays.adopt, _arrays.like
