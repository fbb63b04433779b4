"""`cuekit convert`."""

from __future__ import annotations

import argparse

SUMMARY = "Convert activation maps and label images between formats."
EXAMPLES = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""


def run(_arguments: argparse.Namespace) -> int:
    """Run it."""
    raise ValueError("not built yet")
