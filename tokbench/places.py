"""What a run needs of its machine before it starts: folders that can be written, a device that is there."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tokbench.records import NAME

PROBE_BYTES = 2**16  # written to see whether a disk is full
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def check_places(config: Mapping[str, Any]) -> None:
    """ValueError unless results and cache can be written, before anything is made that could not be kept.

    The name of an experiment is that of a file among the results.
    """
    experiment = config.get("experiment")
    if experiment is not None and not re.fullmatch(NAME, str(experiment)):
        raise ValueError(f"experiment must be letters, digits, '.', '_' and '-', got {experiment!r}")
    for key in ("results_dir", "cache_dir"):
        folder = Path(config[key])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(PROBE_BYTES))
        except OSError as error:
            raise ValueError(f"{key} must be a folder that can be written, got {folder}: {error.strerror}") from None


def unwritable(error: BaseException) -> bool:
    """Whether a file could not be written: a full disk, a quota or limit, a folder that is read alone."""
    return isinstance(error, OSError) and error.errno in UNWRITABLE


def chosen_device() -> torch.device:
    """The GPU where there is one; ValueError where CUDA_VISIBLE_DEVICES asks for one that is not there."""
    asked = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = len(asked.split(",")) if re.match(r"\d|GPU-|MIG-", asked) else 0
    if found < wanted:
        raise ValueError(
            f"CUDA_VISIBLE_DEVICES must name GPUs that are there, got {asked!r}, of which {found} can be used"
        )
    return torch.device("cuda" if found else "cpu")


def check_devices(config: Mapping[str, Any]) -> None:
    """ValueError unless `devices` are there, `strategy` keeps whole weights on each, and every batch divides among them."""
    devices, strategy = config["devices"], config["strategy"]
    there = torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1
    if not isinstance(devices, int) or not 1 <= devices <= there:
        raise ValueError(f"devices must be a whole number from 1 to the {there} of this machine, got {devices!r}")
    if strategy != "auto" and not str(strategy).startswith("ddp"):
        raise ValueError(f"strategy must be auto or one of Lightning's ddp strategies, got {strategy!r}")
    if devices > 1 and config.get("tuning"):
        raise ValueError(f"devices must be 1 with tuning, whose trials are short, got {devices}")
    for part in ("tokenizer", "backbone"):
        if config["budget"][part]["batch"] % devices:
            batch = config["budget"][part]["batch"]
            raise ValueError(f"budget.{part}.batch must divide among devices = {devices}, got {batch}")
