"""Fixtures and hooks of these tests."""

import pytest
from common import (  # noqa: F401 - pytest finds hooks and fixtures here
    figures,
    instruction_set,
    pytest_terminal_summary,
    set_instruction_set,
)


@pytest.fixture(autouse=True, scope="module")
def _instruction_set():
    """Switch back to the instruction set that was in use, after each file."""
    before = instruction_set()
    yield
    set_instruction_set(before)
