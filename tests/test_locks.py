"""One at a time, across processes, and no stale lock after a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tokbench.locks import Held, held

HOLD = """
import sys, time
from pathlib import Path
from tokbench.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
COUNT = """
import sys
from pathlib import Path
from tokbench.locks import held
path = Path(sys.argv[1])
for _ in range(200):
    with held(path):
        path.write_text(str(int(path.read_text()) + 1))
"""


def start(code: str, path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)


def test_a_lock_is_refused_while_another_process_has_it_and_free_once_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "thing.json"
    holder = start(HOLD, path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Held, match=rf"thing.json is being made by process {holder.pid} on "), held(path, wait=False):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with held(path, wait=False):
        assert [entry.name for entry in tmp_path.iterdir()] == [".thing.json.lock"]
    assert not list(tmp_path.iterdir())


def test_an_error_inside_frees_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), held(tmp_path / "thing"):
        raise KeyError
    with held(tmp_path / "thing", wait=False):
        pass


def test_no_count_is_lost_between_processes_that_wait_for_each_other(tmp_path: Path) -> None:
    """Removing the file of a lock must not let two in: the one that waits on the old file, and one that makes a new one."""
    path = tmp_path / "count"
    path.write_text("0")
    processes = [start(COUNT, path) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert path.read_text() == "600"
