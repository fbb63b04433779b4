"""``python -m benchmarks``: run the benchmarks and show which claims hold."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cuekit

if TYPE_CHECKING:
    from benchmarks.harness import Result, Row, Verdict

NAMES = (
    "felzenszwalb",
    "superpixel_mean",
    "bilateral_filter",
    "snap",
    "snap_masks",
    "mask_scores",
    "suppress",
    "refine_local",
    "crf",
    "random_walk",
    "rgb_to_lab",
    "superpixel_graph",
    "superpixel_walk",
    "boundary_connectivity",
    "colour_evidence",
    "evidence",
    "background",
    "subtract",
    "threads",
    "import",
)
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table -->", "<!-- /table -->"


def machine() -> dict[str, Any]:
    """Describe the machine and the versions of all libraries."""
    config = {key: value for key, value in cuekit.build_config().items() if value is not None}
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": usable,
        "system": platform.system(),
        **config,
        "scipy": metadata.version("scipy"),
    }


def figures(number: float) -> str:
    """Format with three significant digits, without an exponent."""
    return f"{number:.0f}" if number >= 100 else f"{number:#.3g}"


def claim_line(verdict: Verdict) -> str:
    """Return a row of the table of claims."""
    low, high = figures(verdict.low), figures(verdict.high)
    value = f"{figures(verdict.value)}{verdict.unit} ({low}–{high})"
    fastest = f" [{verdict.against}]" if verdict.against else ""
    holds = "yes" if verdict.holds else "**no**"
    return f"| {verdict.claim}{fastest} | {value} | {verdict.limit} | {holds} |"


def time_line(title: str, row: Row) -> str:
    """Return a row of the table of times."""
    spread = f"{figures(row.low)}–{figures(row.high)}"
    times = f"{figures(row.ours_ms)} | {row.peer} | {figures(row.peer_ms)}"
    return f"| {title} | {times} | {figures(row.ratio)} ({spread}) |"


def tables(facts: dict[str, Any], results: list[Result]) -> str:
    """Return the machine, the claims and the times as Markdown."""
    about = ", ".join(f"{key} {value}" for key, value in facts.items())
    claims = [claim_line(verdict) for result in results for verdict in result.verdicts]
    times = [
        time_line(result.title if row is result.rows[0] else "", row)
        for result in results
        for row in result.rows
    ]
    return "\n".join(
        [
            f"{about}.",
            "",
            "| claim | ours | limit | holds |",
            "|---|---|---|---|",
            *claims,
            "",
            "| case | ours, ms | compared with | its ms | its time / ours |",
            "|---|---|---|---|---|",
            *times,
        ]
    )


def write_readme(text: str) -> None:
    """Write the tables between the markers in the README."""
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, to check that all benchmarks run"
    )
    parser.add_argument("--write", action="store_true", help="write the tables into README.md")
    parser.add_argument("--strict", action="store_true", help="fail if a claim does not hold")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if args.write and (args.names or args.quick):
        parser.error("--write needs a complete run, without names and without --quick")
    return args


def main() -> int:
    """Run the benchmarks that were named, or all."""
    args = parse()
    results: list[Result] = []
    for name in args.names or NAMES:
        sys.stderr.write(f"{name} …\n")
        results += importlib.import_module(f"benchmarks.bench_{name}").run(quick=args.quick)
    facts = machine()
    text = tables(facts, results)
    sys.stdout.write(text + "\n")
    if args.json:
        report = {"machine": facts, "results": [dataclasses.asdict(result) for result in results]}
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    if args.write:
        write_readme(text)
    broken = any(not verdict.holds for result in results for verdict in result.verdicts)
    return 1 if args.strict and broken else 0


if __name__ == "__main__":
    sys.exit(main())
