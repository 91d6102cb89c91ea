"""The command line: `python -m tokbench.run quantizer=fsq`, and with -m a sweep. The one place that catches a failure.

Exit code 0: recorded, or recorded before; 1: a run failed (its record says why); 2: bad input, or a folder or disk that
cannot be written; 130: stopped by hand.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from tokbench import build
from tokbench.locks import Held, held
from tokbench.names import check_keys, complaints
from tokbench.records import remove_partial
from tokbench.sweeps import BAD_INPUT, FAILED, HELD, OK, STOPPED, Ledger, Outcome, Result, failures, progress

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler that measures memory would print to the terminal


def run(config: Mapping[str, Any], *, since: float, wait: bool, told: Collection[str] = ()) -> Result:
    """Do one run and leave its record: its result, with what went wrong in one line, which stderr is told as well.

    A run that another process makes is waited for, or `HELD` where `wait` is False. What another process has done with it
    `since` a time (seconds of the epoch) is not done again. Bad input whose line is in `told` is not told again.
    """
    from tokbench import job, places  # torch is imported here, so that --help need not wait for it

    label = f"{config['name']} s{config['seed']}"
    try:
        places.check_places(config)
        ready = job.prepare(config)
        with held(ready.folder / ready.file_name, wait=wait):
            return _alone(ready, label, since)
    except Held as error:
        return _say(label, f"{error}: looked at again at the end", HELD)
    except (ValueError, OSError) as error:
        first = str(error).partition("\n")[0]
        return Result(BAD_INPUT, first) if first in told else _say(f"error: {label}", str(error), BAD_INPUT)


def _alone(ready: Any, label: str, since: float) -> Result:
    """The same, while no other process makes this run."""
    from tokbench import execute, job

    remove_partial(ready.folder, Path(ready.file_name).stem)
    found = job.recorded(ready)
    if found is not None and (not ready.config["force"] or found.stat().st_mtime >= since):
        print(f"[{label}] recorded before: {found} (force=true runs it again)")
        return Result(OK, record=found.name)
    if failed := job.failed_since(ready, since):
        return _say(f"failed: {label}", failed, FAILED)
    start = time.perf_counter()
    try:
        made = execute.execute(ready)
        print(f"[{label}] recorded: {made}", flush=True)
        return Result(OK, seconds=round(time.perf_counter() - start, 2), record=made.name)
    except Exception as error:
        return _failed(ready, label, error)
    finally:
        logger = vars(ready).get("logger")  # only where it was asked for: to ask is to start it
        if logger is not None and hasattr(logger.experiment, "finish"):
            logger.experiment.finish()  # a sweep's next run starts its own


def _failed(ready: Any, label: str, error: Exception) -> Result:
    from tokbench.execute import write_failure
    from tokbench.places import unwritable
    from tokbench.training_module import Diverged

    text = f"{type(error).__name__}: {error}"
    if unwritable(error):
        return _say(f"error: {label}", f"cannot write, nothing is recorded: {text}", BAD_INPUT)
    if not isinstance(error, Diverged | OSError):
        traceback.print_exc()
    result = _say(f"failed: {label}", text, FAILED)
    try:
        _say(f"failed: {label}", f"recorded in {write_failure(ready, error)}", FAILED)
    except OSError as second:
        _say(f"failed: {label}", f"the failure could not be recorded: {second}", FAILED)
    return result


def _say(label: str, text: str, code: int) -> Result:
    print(f"{label}: {text}", file=sys.stderr, flush=True)
    return Result(code, text.splitlines()[0] if text else "")


def main() -> int:
    """Compose the configuration with Hydra, do the run or the runs of a sweep, and report; the exit code."""
    with tempfile.TemporaryDirectory(prefix="tokbench-") as folder:
        return _main(Ledger(Path(folder) / "outcomes"), time.time())


class Heard(io.StringIO):
    """What Hydra says instead of on the terminal, to be told in one line; a run itself speaks to the terminal."""

    def __init__(self, terminal: TextIO) -> None:
        super().__init__()
        self.terminal = terminal


def _main(ledger: Ledger, since: float) -> int:
    said = Heard(sys.stderr)
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]

    @hydra.main(config_path=str(build.ROOT / "conf"), config_name="config", version_base="1.3")
    def each(config: DictConfig) -> None:  # in a process of its own where a launcher has several
        with redirect_stderr(getattr(sys.stderr, "terminal", sys.stderr)):
            _each(config, ledger, since, words)

    stopped = None
    try:
        with redirect_stderr(said):
            each()
    except SystemExit as stop:  # Hydra, or its launcher, has said what is wrong
        stopped = stop.code
    except KeyboardInterrupt:
        print("stopped: what was not finished left no record; the next start goes on from there", file=sys.stderr)
        return STOPPED
    finally:
        outcomes = ledger.read()
        text = said.getvalue()
        refused = bool(stopped) and not outcomes and "Error executing job" not in text  # that is ours, and told whole
        if refused and text:
            text = "error: " + "\n".join(complaints(text, words)) + "\n"
        print(text, end="", file=sys.stderr)
    if refused:
        return BAD_INPUT
    for outcome in outcomes:
        if outcome.code == HELD:
            again = run(outcome.config, since=since, wait=True)
            ledger.add(replace(outcome, **vars(again)))
    return max(_close(ledger.read()), FAILED if stopped else OK)


def _each(config: DictConfig, ledger: Ledger, since: float, words: Sequence[str]) -> None:
    from tokbench.sharing import share_machine

    settings = HydraConfig.get()
    sweep = settings.mode == RunMode.MULTIRUN
    at_once = _at_once(settings.launcher) if sweep else 1
    share_machine(at_once)
    overrides = list(settings.overrides.task)
    try:
        check_keys(map(str, config))
        values = build.plain(config, settings.runtime.choices, overrides)
    except ValueError as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    told = {outcome.error for outcome in ledger.read()} - {""}
    found = run(values, since=since, wait=not sweep, told=told)
    outcome = Outcome(**vars(found), overrides=" ".join(overrides), sweep=sweep, config=values)
    ledger.add(outcome)
    if sweep:
        try:
            _remember(Path(values["results_dir"]), [outcome])  # now: a sweep may be killed
        except OSError as error:
            _say("warning", f"the list of the experiment's runs is not written: {error}", OK)
        total = _grid_size(settings.sweeper.params, words)
        print(f"[sweep] {progress(ledger.read(), total=total, at_once=at_once)}", flush=True)


def _at_once(launcher: Any) -> int:
    """Runs that the launcher does at a time on this machine."""
    jobs = int(launcher.get("n_jobs") or 1)
    return jobs if jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + jobs)


def _grid_size(params: Any, words: Sequence[str]) -> int | None:
    """Runs of the sweep; None where its values are drawn, not listed."""
    given = [f"{key}={value}" for key, value in (params or {}).items()] + list(words)
    sizes: dict[str, int] = {}
    for override in OverridesParser.create().parse_overrides(given):
        if override.is_sweep_override() and not override.is_discrete_sweep():
            return None
        sizes[override.get_key_element()] = (
            sum(1 for _ in override.sweep_string_iterator()) if override.is_sweep_override() else 1
        )
    return prod(sizes.values())


def _remember(results: Path, outcomes: Sequence[Outcome]) -> list[str]:
    """The experiments that runs in this folder were for, each with its records kept for the report."""
    from tokbench.report.experiments import remember

    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        name, folder = outcome.config.get("experiment"), outcome.config["results_dir"]
        if name and outcome.record and Path(folder) == results:
            found.setdefault(str(name), []).append(outcome.record)
    for name, files in found.items():
        remember(results, name, files)
    return list(found)


def _close(outcomes: Sequence[Outcome]) -> int:
    """Tables of each results folder of a sweep, the list of failures, the exit code."""
    folders = sorted({outcome.config["results_dir"] for outcome in outcomes if outcome.sweep})
    told = max([_report(Path(folder), outcomes) for folder in folders], default=OK)
    codes = [outcome.code for outcome in outcomes]
    if any(outcome.sweep for outcome in outcomes) and any(codes):
        print(*failures(outcomes), sep="\n", file=sys.stderr, flush=True)
        return max(told, BAD_INPUT if all(code == BAD_INPUT for code in codes) else FAILED)
    return max([told, *codes])


def _report(results: Path, outcomes: Sequence[Outcome]) -> int:
    if not (results / "runs").is_dir():
        return OK
    from tokbench.report.build import build_from_views  # here: --help need not wait for it
    from tokbench.report.headline import headline
    from tokbench.report.unwritten import say_unwritten

    try:
        experiments = _remember(results, [outcome for outcome in outcomes if outcome.sweep])
        built = build_from_views(results)
    except OSError as error:
        return say_unwritten(results, error)
    print(headline(built.views, experiments), *(f"written: {path}" for path in built.paths), sep="\n", flush=True)
    return OK


if __name__ == "__main__":
    sys.exit(main())
