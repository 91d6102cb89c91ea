"""The command line: `python -m tokbench.run quantizer=fsq`, and with -m a sweep. The one place that catches a failure.

Exit code 0: recorded, or recorded before; 1: a run failed (its record says why); 2: bad input; 130: stopped by hand.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from tokbench import build

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that measures memory would print to the terminal
OK, FAILED, BAD_INPUT, STOPPED = 0, 1, 2, 130


def run(config: Mapping[str, Any]) -> int:
    """Do one run and leave its record; the exit code. Trouble is told on stderr in one line."""
    from tokbench import execute, job  # torch is imported here, so that --help need not wait for it

    label = f"{config['name']} s{config['seed']}"
    try:
        ready = job.prepare(config)
    except ValueError as error:
        return _say(f"error: {label}: {error}", BAD_INPUT)
    try:
        found = job.recorded(ready)
        if found is not None and not config["force"]:
            print(f"[{label}] recorded before: {found} (force=true runs it again)")
            return OK
        print(f"[{label}] recorded: {execute.execute(ready)}")
        return OK
    except Exception as error:
        return _failed(ready, label, error)
    finally:
        if ready.logger is not None and hasattr(ready.logger.experiment, "finish"):
            ready.logger.experiment.finish()  # a sweep's next run starts its own


def _failed(ready: Any, label: str, error: Exception) -> int:
    from tokbench.execute import write_failure
    from tokbench.train import Diverged

    if not isinstance(error, Diverged | OSError):
        traceback.print_exc()
    _say(f"failed: {label}: {type(error).__name__}: {error}", FAILED)
    try:
        _say(f"failed: {label}: recorded in {write_failure(ready, error)}", FAILED)
    except OSError as second:
        _say(f"failed: {label}: the failure could not be recorded: {second}", FAILED)
    return FAILED


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr, flush=True)
    return code


def main() -> int:
    """Compose the configuration with Hydra, do the run or the runs of a sweep, and report; the exit code."""
    codes: dict[str, int] = {}
    sweeps: set[str] = set()  # the results folders of a sweep

    @hydra.main(config_path=str(build.ROOT / "conf"), config_name="config", version_base="1.3")
    def each(config: DictConfig) -> None:
        settings = HydraConfig.get()
        overrides = list(settings.overrides.task)
        values = build.plain(config, settings.runtime.choices, overrides)
        codes[" ".join(overrides)] = run(values)
        if settings.mode == RunMode.MULTIRUN:
            sweeps.add(values["results_dir"])

    try:
        each()
    except SystemExit as stop:  # Hydra has said what is wrong with the command line
        return BAD_INPUT if stop.code else OK
    except KeyboardInterrupt:
        return _say("stopped: what was not finished left no record; the next start goes on from there", STOPPED)
    if sweeps:
        return max(_close_sweep(codes, Path(folder)) for folder in sweeps)
    return max(codes.values(), default=OK)


def _close_sweep(codes: Mapping[str, int], results: Path) -> int:
    from tokbench.report.build import build_report
    from tokbench.report.headline import headline

    if (results / "runs").is_dir():
        written = build_report(results)
        print(headline(results), *(f"written: {path}" for path in written), sep="\n")
    failed = [overrides for overrides, code in codes.items() if code]
    if failed:
        _say(
            "\n".join([f"{len(failed)} of {len(codes)} runs failed:", *(f"  {overrides}" for overrides in failed)]),
            FAILED,
        )
    return FAILED if failed else OK


if __name__ == "__main__":
    sys.exit(main())
