"""`cuekit evaluate`."""

from __future__ import annotations

import argparse

SUMMARY = "Compare label images with the truth: IoU, accuracy, intervals."
EXAMPLES = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""


def run(_arguments: argparse.Namespace) -> int:
    """Run it."""
    raise ValueError("not built yet")
