"""`cuekit view`."""

from __future__ import annotations

import argparse

SUMMARY = "Make a page with pictures of photos, maps and labels."
EXAMPLES = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""


def run(_arguments: argparse.Namespace) -> int:
    """Run it."""
    raise ValueError("not built yet")
