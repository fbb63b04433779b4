"""What every test file shares: Hypothesis profiles, and figures for the end of the run."""

import os

import pytest
from hypothesis import settings

from cuekit import _cpu

# No deadline: a first call starts threads, and shared machines stall. CI draws the same examples
# every time, so that a failure there is a failure of the change.
EXAMPLES = int(os.environ.get("CUEKIT_TEST_EXAMPLES", "500"))
settings.register_profile("default", deadline=None, max_examples=EXAMPLES)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI", "").lower() == "true" else "default")

FIGURES = pytest.StashKey[list[str]]()


def pytest_configure(config):
    config.stash[FIGURES] = []


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[FIGURES]:
        terminalreporter.section("figures on real data")
        for line in config.stash[FIGURES]:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures(request):
    """Lines put here are printed at the end of the run, passed or not."""
    return request.config.stash[FIGURES]


@pytest.fixture(autouse=True, scope="module")
def _instruction_set():
    """Whatever a test switched to does not reach the next file."""
    before = _cpu.instruction_set()
    yield
    _cpu.set_instruction_set(before)
