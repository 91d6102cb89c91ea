"""Sweeps in processes of their own, forked from one that has imported everything: started, killed, started at once.

Run by tests/test_survival.py as `python sweep_driver.py`, with a plan in JSON on stdin and a report in JSON on stdout.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tokbench import checkpoints, execute, job, run, timing
from tokbench.report import build, headline

assert all((job, build, headline, execute)), "imported once, here"


def start(words: list[str], output: Path) -> int:
    """The process id of a sweep that writes to `output`."""
    pid = os.fork()
    if pid:
        return pid
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["tokbench.run", *words]
    os._exit(run.main())


def finish(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def cut(words: list[str], output: Path, after: float) -> int:
    """The exit code of a sweep that is killed after so many seconds, if it still runs."""
    pid = start(words, output)
    end = time.perf_counter() + after
    while time.perf_counter() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    return finish(pid)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "runs").glob("*.json")}


def main(plan: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    timing.BUSY_CORES = float("inf")  # what else the machine does is not the matter here
    checkpoints.SECONDS, checkpoints.SHARE = plan["checkpoint_seconds"], 1.0
    draw, found = random.Random(plan["seed"]), dict[str, Any]()
    folder = Path(plan["folder"])

    def words(name: str) -> list[str]:
        return [*plan["words"], f"results_dir={folder / name}", f"cache_dir={folder / name / 'cache'}"]

    begin = time.perf_counter()
    found["whole"] = finish(start(words("whole"), folder / "whole.txt"))
    seconds = time.perf_counter() - begin
    found["cuts"], finished = [], dict[str, int]()
    for number in range(plan["kills"]):
        found["cuts"].append(cut(words("cut"), folder / f"cut{number}.txt", draw.uniform(0.1, 0.5) * seconds))
        finished = stamps(folder / "cut") | finished
    if plan["kills"]:
        found["last"] = finish(start(words("cut"), folder / "last.txt"))
        found["again"] = [n for n, stamp in finished.items() if stamps(folder / "cut")[n] != stamp]
    if plan["at_once"]:
        both = [start(words("both"), folder / f"both{i}.txt") for i in range(plan["at_once"])]
        found["both"] = [finish(pid) for pid in both]
    return found


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
