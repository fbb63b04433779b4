"""`cuekit labels`."""

from __future__ import annotations

import argparse

SUMMARY = "Make labels of a folder of photos from their activation maps."
EXAMPLES = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""


def run(_arguments: argparse.Namespace) -> int:
    """Run it."""
    raise ValueError("not built yet")
