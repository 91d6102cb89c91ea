"""What all benches print, and how."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(slow: Callable[[], object], fast: Callable[[], object], *, repeats: int) -> float:
    """Median over neighbouring pairs of calls, after one call of each."""
    slow(), fast()
    return statistics.median(seconds(slow) / seconds(fast) for _ in range(repeats))


def line(what: str, measured: str, bar: str) -> None:
    print(f"{what:<72} {measured:>24}   bar: {bar}", flush=True)
