"""One training in several processes of this machine, a device each, that torch.distributed connects."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, multiprocessing
from torch.multiprocessing.spawn import ProcessException

from tokbench.training_module import Diverged


def in_processes(work: Callable[..., None], *args: Any, count: int) -> None:
    """Calls work(*args) in `count` new processes, each with its rank and device; they import `work` by its name.

    The first error ends them all: `Diverged`, or a RuntimeError of its last line.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    threads = max(1, torch.get_num_threads() // count)
    try:
        multiprocessing.spawn(_start, (work, args, count, port, threads), nprocs=count)
    except ProcessException as error:
        raise as_here(str(error)) from None


def as_here(traceback: str) -> RuntimeError:
    """The error of another process, of its last line: `Diverged` where it was that."""
    last = traceback.strip().splitlines()[-1]
    name = f"{Diverged.__module__}.{Diverged.__qualname__}: "
    return Diverged(last.removeprefix(name)) if last.startswith(name) else RuntimeError(last)


def _start(rank: int, work: Callable[..., None], args: tuple[Any, ...], count: int, port: int, threads: int) -> None:
    os.environ["LOCAL_RANK"] = str(rank)  # by which Lightning knows that the processes are there
    torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(rank)
    backend = "nccl" if gpu else "gloo"
    distributed.init_process_group(backend, f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    work(*args)
    distributed.destroy_process_group()
