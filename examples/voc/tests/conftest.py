"""The path to the example and to what all tests share; one thread of torch."""

import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1]
ROOT = EXAMPLE.parents[1]
sys.path[:0] = [str(EXAMPLE), str(ROOT / "tests")]

from common import (  # noqa: E402, F401 - pytest finds hooks and fixtures here
    figures,
    pytest_terminal_summary,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Two threads of torch on two busy cores are slower than one, and sums keep their order."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
