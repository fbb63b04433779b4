"""`python -m cuekit`: what was built, what was found."""

import sys

from cuekit._backend import build_config

REASONS = {"cuda": "not built: this version has CPU kernels only", None: "not installed"}


def main() -> None:
    """Write one line per fact."""
    config = build_config()
    for key, value in config.items():
        shown = REASONS.get(key, REASONS[None]) if value is None else value
        sys.stdout.write(f"{key:<16} {shown}\n")


if __name__ == "__main__":
    main()
