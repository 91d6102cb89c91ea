"""Who may make a thing: one process at a time, on this machine and wherever the file system carries flock to others.

The kernel frees the lock of a process that dies, however it dies, so that a stale lock cannot be. The lock's file names
its holder, for the reader alone; whoever lets go removes it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Held(RuntimeError):
    """Another process has the lock; the message names it."""


@contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """The lock on `path`, which lies beside it as a hidden file, for the body.

    Waits for whoever has it and says so on stderr, or raises `Held` where `wait` is False. Not to be nested for one path.
    """
    lock = path.with_name(f".{path.name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    handle = _take(lock, wait=wait)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before it is let go: whoever waits sees that its file is gone and makes another
        os.close(handle)


def _take(lock: Path, *, wait: bool) -> int:
    """The open file that holds the lock."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(handle, lock, wait=wait)
            if _is(handle, lock):
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, lock: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"
        what = lock.name[1 : -len(".lock")]
        if not wait:
            raise Held(f"{what} is being made by {holder}") from None
        print(f"waiting for {holder}, which makes {what}", file=sys.stderr, flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)


def _is(handle: int, lock: Path) -> bool:
    """Whether the file of that name is still the one that was opened."""
    try:
        return os.path.samestat(os.fstat(handle), lock.stat())
    except FileNotFoundError:
        return False
