"""How far a long run is."""

from __future__ import annotations

import sys
import time
from typing import Any

_PERIOD = 30.0  # seconds between two lines where there is no terminal


class Progress:
    """Shows how many photos are done: a bar on a terminal, elsewhere a line every 30 seconds.

    The bar needs tqdm (``pip install 'cuekit[cli]'``); lines are written without it. All goes to
    standard error.

    Parameters
    ----------
    total : int
        Number of photos of the run.
    shown : bool, default True
        False: nothing is written.
    """

    def __init__(self, total: int, shown: bool = True) -> None:
        self._total = total
        self._shown = shown
        self._done = self._failed = 0
        self._start = self._last = time.monotonic()
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, unit="photo", smoothing=0.1)

    def add(self, failed: bool = False) -> None:
        """Count one photo."""
        self._done += 1
        self._failed += failed
        if self._bar is not None:
            self._bar.update()
            if failed:
                self._bar.set_postfix(failed=self._failed)
        elif self._shown and time.monotonic() - self._last >= _PERIOD:
            self._last = time.monotonic()
            self.note(self._line())

    def note(self, text: str) -> None:
        """Write a line, above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._shown:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _line(self) -> str:
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        left = (self._total - self._done) / rate
        return (
            f"{self._done} of {self._total} photos, {rate:.1f} per second, "
            f"{duration(left)} left, {self._failed} failed"
        )


def duration(seconds: float) -> str:
    """Return a time span in a reader's units: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
