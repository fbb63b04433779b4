"""The sections of the benchmarks' README: one for each processor and instruction set."""

import pytest
from common import ROOT

if not (ROOT / "benchmarks").is_dir():
    pytest.skip("needs the folder benchmarks: run the tests in a clone", allow_module_level=True)

README = """\
# Benchmarks

### Not a result

## Results

About the tables.

### One, avx2

old

| of one |

### Two, avx2

| of two |
"""


@pytest.fixture
def with_section(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks.__main__ import with_section

    return with_section


def test_a_section_is_replaced_and_the_others_stay(with_section):
    text = with_section(README, "One, avx2", "| new |")
    assert text == README.replace("old\n\n| of one |", "| new |")
    assert with_section(text, "One, avx2", "| new |") == text


def test_a_new_section_is_put_before_the_others(with_section):
    text = with_section(README, "One, avx512", "| wide |")
    assert text == README.replace("### One,", "### One, avx512\n\n| wide |\n\n### One,")


def test_the_readme_has_sections(with_section):
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    text = with_section(readme, "A processor, baseline", "| narrow |")
    assert text.replace("### A processor, baseline\n\n| narrow |\n\n", "") == readme
