"""`cuekit sweep`."""

from __future__ import annotations

import argparse

SUMMARY = "Find the background threshold of activation maps."
EXAMPLES = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""


def run(_arguments: argparse.Namespace) -> int:
    """Run it."""
    raise ValueError("not built yet")
