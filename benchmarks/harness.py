"""Times cuekit and a peer alternately, after checking the answers of both."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROUNDS = 21  # minimum per comparison
SLOW_ROUNDS, SLOW_SECONDS = 10, 0.3  # minimum if both calls together take so long
QUICK_ROUNDS = 5
MOST_ROUNDS = 201
SECONDS = 0.5  # short calls are repeated for about this long
SETTLE_SECONDS = 0.3
SETTLED_CALLS = 5  # timed calls per turn
# Prints the peak of resident memory during the call, less that before it.
MEMORY_PROGRAM = """
import sys
from pathlib import Path
{setup}
def resident(key):
    [line] = [l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key)]
    return 1024 * int(line.split()[1])
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
call()
sys.stdout.write(str(resident("VmHWM") - before))
"""


@dataclass(frozen=True)
class Contender:
    """One implementation, and the answer that it must give."""

    name: str
    call: Callable[[], Any]
    expected: Any
    tolerance: float = 0.0  # relative and absolute; 0 = equal in every bit
    group: str = ""  # only the fastest contender of a group is timed in full


@dataclass(frozen=True)
class Claim:
    """A limit on cuekit's time relative to the fastest of some peers (names or groups)."""

    text: str
    against: tuple[str, ...]
    at_most: float | None = None  # ours / peer
    at_least: float | None = None  # peer / ours


@dataclass(frozen=True)
class Case:
    """One input, cuekit's function on it, and the peers."""

    title: str
    ours: Contender
    peers: Sequence[Contender]
    claims: Sequence[Claim] = ()
    settled: bool = False  # timed as in a loop over a data set, see `compare`


@dataclass(frozen=True)
class Row:
    """One comparison: medians in milliseconds, and the ratio peer / ours."""

    peer: str
    group: str
    ours_ms: float
    peer_ms: float
    ratio: float  # of the medians
    low: float  # quartiles of the ratios of single rounds
    high: float
    rounds: int


@dataclass(frozen=True)
class Verdict:
    """The result of a claim."""

    claim: str
    against: str  # the fastest peer, if there were several
    value: float
    low: float
    high: float
    limit: str
    unit: str
    holds: bool


@dataclass(frozen=True)
class Result:
    """Everything measured for one case."""

    title: str
    rows: list[Row]
    verdicts: list[Verdict]
    slower_ways_ms: dict[str, float] = field(default_factory=dict)  # of the groups, short trials


def check(contender: Contender) -> None:
    """Raise if an answer is wrong."""
    answer = np.asarray(contender.call())
    if contender.tolerance:
        tolerance = contender.tolerance
        np.testing.assert_allclose(
            answer, contender.expected, rtol=tolerance, atol=tolerance, err_msg=contender.name
        )
    else:
        np.testing.assert_array_equal(answer, contender.expected, err_msg=contender.name)


def seconds(call: Callable[[], Any]) -> float:
    """Time one call. Freeing its result is not part of the time."""
    start = perf_counter()
    result = call()
    elapsed = perf_counter() - start
    del result
    return elapsed


def trial(contender: Contender) -> float:
    """Warm up, then return the best of three times."""
    contender.call()
    return min(seconds(contender.call) for _ in range(3))


def compare(ours: Contender, peer: Contender, *, quick: bool, settled: bool = False) -> Row:
    """Time ours, peer, ours, peer, …, so that noise of the machine affects both.

    `settled`: several calls per turn, after some that are not timed. In a loop over a data set all
    cores are busy and the caches contain the data of one library. Here cores are idle while a
    single-threaded peer runs, a virtual core is slow for a while after it was idle, and the peer
    evicts our data from the caches.
    """
    calls = SETTLED_CALLS if settled else 1

    def timed(contender: Contender) -> list[float]:
        settled_at = perf_counter() + SETTLE_SECONDS
        while settled and perf_counter() < settled_at:
            contender.call()
        return [seconds(contender.call) for _ in range(calls)]

    pair = trial(ours) + trial(peer)
    fewest = SLOW_ROUNDS if pair > SLOW_SECONDS else ROUNDS
    rounds = QUICK_ROUNDS if quick else max(fewest, min(MOST_ROUNDS, round(SECONDS / pair)))
    gc.collect()
    gc.disable()
    try:
        turns = [(timed(ours), timed(peer)) for _ in range(-(-rounds // calls))]
    finally:
        gc.enable()
    # (turns, sides, calls) -> (turns * calls, sides)
    times = np.moveaxis(np.array(turns), 1, 2).reshape(-1, 2)
    ours_ms, peer_ms = 1e3 * np.median(times, axis=0)
    low, high = np.quantile(times[:, 1] / times[:, 0], (0.25, 0.75))
    return Row(
        peer=peer.name,
        group=peer.group,
        ours_ms=float(ours_ms),
        peer_ms=float(peer_ms),
        ratio=float(peer_ms / ours_ms),
        low=float(low),
        high=float(high),
        rounds=len(times),
    )


def judge(claim: Claim, rows: Sequence[Row]) -> Verdict:
    """Compare with the fastest peer of a claim."""
    row = min(
        (row for row in rows if row.peer in claim.against or row.group in claim.against),
        key=lambda row: row.ratio,  # of each peer to cuekit, timed in the same turns
    )
    if claim.at_most is not None:
        value, low, high = 1 / row.ratio, 1 / row.high, 1 / row.low
        limit, holds = f"≤ {claim.at_most:g}×", value <= claim.at_most
    else:
        assert claim.at_least is not None
        value, low, high = row.ratio, row.low, row.high
        limit, holds = f"≥ {claim.at_least:g}×", value >= claim.at_least
    choice = row.group or len(claim.against) > 1
    fastest = row.peer if choice else ""
    return Verdict(claim.text, fastest, value, low, high, limit, "×", holds)


def measure(case: Case, *, quick: bool = False) -> Result:
    """Check every answer, time cuekit against every peer, and evaluate the claims."""
    for contender in (case.ours, *case.peers):
        check(contender)
    trials = {peer.name: trial(peer) for peer in case.peers if peer.group}
    peers, slower = [], {}
    for peer in case.peers:
        rivals = [other.name for other in case.peers if peer.group and other.group == peer.group]
        if not rivals or peer.name == min(rivals, key=trials.__getitem__):
            peers.append(peer)
        else:
            slower[peer.name] = 1e3 * trials[peer.name]
    rows = [compare(case.ours, peer, quick=quick, settled=case.settled) for peer in peers]
    verdicts = [judge(claim, rows) for claim in case.claims]
    return Result(case.title, rows, verdicts, slower)


def absolute(
    title: str, text: str, samples_ms: Mapping[str, Sequence[float]], limit: float
) -> Result:
    """Evaluate a limit in milliseconds on the first samples; the second are for comparison."""
    (_, ours), (peer, theirs) = samples_ms.items()
    ratios = np.array(theirs) / np.array(ours)
    low, high = np.quantile(ratios, (0.25, 0.75))
    ours_ms, peer_ms = median(ours), median(theirs)
    row = Row(peer, "", ours_ms, peer_ms, peer_ms / ours_ms, float(low), float(high), len(ours))
    low, high = np.quantile(ours, (0.25, 0.75))
    verdict = Verdict(
        text, "", ours_ms, float(low), float(high), f"≤ {limit:g} ms", " ms", ours_ms <= limit
    )
    return Result(title, [row], [verdict])


def peak_bytes(setup: str) -> int:
    """Return the peak memory of `call()` in a fresh process, after `setup` has run there."""
    command = [sys.executable, "-c", MEMORY_PROGRAM.format(setup=setup)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    return int(done.stdout)


def bound(text: str, value: float, unit: str, limit: float) -> Verdict:
    """Evaluate a limit on a value that was measured once."""
    return Verdict(text, "", value, value, value, f"≤ {limit:g}{unit}", unit, value <= limit)
