"""`cuekit info`: what was built, what was found."""

from __future__ import annotations

import argparse
import sys

SUMMARY = "Print what was built and what is installed."
EXAMPLES = """\
example:
  cuekit info"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: it has no options."""


def run(_arguments: argparse.Namespace) -> int:
    """Write one line per fact."""
    from cuekit import build_config

    config = build_config()
    reason = config.pop("cuda_missing")
    config["cuda"] = config["cuda"] or f"missing: {reason}"
    for key, value in config.items():
        sys.stdout.write(f"{key:<16} {'not installed' if value is None else value}\n")
    return 0
