"""`python -m cuekit`: what was built, what was found."""

import sys

from cuekit._backend import build_config


def main() -> None:
    """Write one line per fact."""
    config = build_config()
    reason = config.pop("cuda_missing")
    config["cuda"] = config["cuda"] or f"missing: {reason}"
    for key, value in config.items():
        sys.stdout.write(f"{key:<16} {'not installed' if value is None else value}\n")


if __name__ == "__main__":
    main()
