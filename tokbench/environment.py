"""The machine and the software a run was made with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch
from pydantic import JsonValue

from tokbench.sharing import runs_at_once

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "torchmetrics", "scipy", "numpy", "scikit-image")


def describe(device: torch.device) -> dict[str, JsonValue]:
    """Names, versions and the load average by name; the git commit is None outside a checkout, "+changes" if it is not clean."""
    packages: dict[str, JsonValue] = {name: version(name) for name in PACKAGES}
    shared: dict[str, JsonValue] = {"runs_at_once": runs_at_once()} if runs_at_once() > 1 else {}
    return (
        packages
        | shared
        | {
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "threads": torch.get_num_threads(),
            "load_average": round(os.getloadavg()[0], 2),
            "commit": _commit(),
        }
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "tokbench", "conf", "experiments")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
