"""``python -m benchmarks``: run the benchmarks and show which claims hold."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import cuekit
from cuekit._backend import INSTRUCTION_SET_VARIABLE, INSTRUCTION_SETS, cpu_kernels

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
    "large",
    "threads",
    "import",
)
README = Path(__file__).parent / "README.md"
RESULTS = "\n## Results\n"


def use_instruction_set(name: str) -> None:
    """Let cuekit use it, in this process and in those that benchmarks start."""
    cpu_kernels.set_instruction_set(name)
    os.environ[INSTRUCTION_SET_VARIABLE] = name


def processor() -> str:
    """Return the processor's name, and what distinguishes it from others of the same name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    pairs = [re.split(r"\s*:\s*", line, maxsplit=1) for line in lines if ":" in line]
    facts = dict(reversed(pairs))  # of the first processor
    if "model name" not in facts:
        return platform.processor() or platform.machine()
    return "{model name} (family {cpu family}, model {model})".format(**facts)


def machine() -> dict[str, Any]:
    """Describe the machine and the versions of all libraries."""
    config = {key: value for key, value in cuekit.build_config().items() if value}
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": processor(),
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


def with_section(readme: str, title: str, body: str) -> str:
    """Return the README with a section of its results replaced, or put before the others."""
    before, results = readme.split(RESULTS)
    introduction, *sections = re.split(r"^(?=### )", results, flags=re.MULTILINE)
    heading = f"### {title}\n"
    section = f"{heading}\n{body}\n"
    if any(each.startswith(heading) for each in sections):
        sections = [section if each.startswith(heading) else each for each in sections]
    else:
        sections = [section, *sections]
    text = "\n".join(each.rstrip("\n") + "\n" for each in sections)
    return f"{before}{RESULTS}{introduction}{text}"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(NAMES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, to check that all benchmarks run"
    )
    parser.add_argument(
        "--instruction-set",
        action="append",
        choices=INSTRUCTION_SETS,
        dest="instruction_sets",
        help="what cuekit may use; can be repeated (default: the widest; with --write, avx2 too)",
    )
    parser.add_argument("--write", action="store_true", help="write the tables into README.md")
    parser.add_argument("--strict", action="store_true", help="fail if a claim does not hold")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if args.write and (args.names or args.quick):
        parser.error("--write needs a complete run, without names and without --quick")
    possible = INSTRUCTION_SETS[: INSTRUCTION_SETS.index(cpu_kernels.widest_instruction_set()) + 1]
    if not args.instruction_sets:
        args.instruction_sets = [cpu_kernels.instruction_set()]
        if args.write and args.instruction_sets == ["avx512"]:
            args.instruction_sets.append("avx2")
    if lacking := set(args.instruction_sets) - set(possible):
        parser.error(f"this processor lacks {', '.join(sorted(lacking))}")
    return args


def run(args: argparse.Namespace) -> tuple[dict[str, Any], list[Result]]:
    """Run the benchmarks that were named, or all; return facts of the machine, and results."""
    results: list[Result] = []
    for name in args.names or NAMES:
        start = perf_counter()
        sys.stderr.write(f"{name} … ")
        sys.stderr.flush()
        results += importlib.import_module(f"benchmarks.bench_{name}").run(quick=args.quick)
        sys.stderr.write(f"{perf_counter() - start:.0f} s\n")
    return machine(), results


def main() -> int:
    """Run the benchmarks with every instruction set that was named."""
    args = parse()
    reports = []
    broken = False
    for instruction_set in args.instruction_sets:
        use_instruction_set(instruction_set)
        facts, results = run(args)
        title, text = f"{facts['cpu']}, {instruction_set}", tables(facts, results)
        sys.stdout.write(f"### {title}\n\n{text}\n")
        if args.write:
            readme = README.read_text(encoding="utf-8")
            README.write_text(with_section(readme, title, text), encoding="utf-8")
        reports.append(
            {"machine": facts, "results": [dataclasses.asdict(result) for result in results]}
        )
        broken |= any(not verdict.holds for result in results for verdict in result.verdicts)
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1, ensure_ascii=False), encoding="utf-8")
    return 1 if args.strict and broken else 0


if __name__ == "__main__":
    sys.exit(main())
