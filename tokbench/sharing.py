"""Several runs at once on one machine: each process takes its share of the cores, and takes no timings."""

from __future__ import annotations

import os

import torch

_runs = 1


def share_machine(runs: int) -> None:
    """Say that so many runs, this one among them, are at work at once: from now on threads are divided and nothing is timed."""
    global _runs
    _runs = runs
    if runs > 1:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), len(os.sched_getaffinity(0)) // runs)))


def runs_at_once() -> int:
    """What `share_machine` was told last; 1 before."""
    return _runs
