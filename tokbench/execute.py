"""One run from its start to its record: train, judge, measure, and write the record last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue

from tokbench import build
from tokbench.blocks import PICTURED, run_blocks
from tokbench.environment import describe
from tokbench.evaluate.code_length import code_length_measures, codec_measures
from tokbench.evaluate.costs import tokenizer_costs
from tokbench.evaluate.exactness import evaluate_exactness, source_bits
from tokbench.evaluate.legibility import evaluate_legibility
from tokbench.evaluate.maps import lost_maps
from tokbench.evaluate.measures import Found, Measures, measured
from tokbench.evaluate.reference import Reference, some
from tokbench.evaluate.robustness import evaluate_robustness
from tokbench.evaluate.tokenizer import evaluate_tokenizer
from tokbench.evaluate.training import curve, fallbacks, training_measures
from tokbench.information.image_lossless import codec_versions
from tokbench.interfaces import Tokenizer
from tokbench.job import Job, checkout
from tokbench.judging import judged
from tokbench.metrics.images import to_float
from tokbench.records import SCHEMA_VERSION, DataInfo, RunRecord, write_arrays, write_record
from tokbench.stages import code_length, forget, scheme_name, tokenizer_loss, trainable, trained_tokenizer
from tokbench.train import Training
from tokbench.tune import Trial, tune

VERSION = 1


def execute(job: Job) -> Path:
    """Train, judge, measure and record; the path of the record, which is written last."""
    found = Found()
    with job.step("judges"):
        reference, baselines = judged(job)
        found.add(baselines)
    chosen, trials = job, list[Trial]()
    if "tuning" in job.config:
        with job.step("tune tokenizer"):
            chosen, trials = tune(job)
    with job.step("train tokenizer"):
        tokenizer, training = trained_tokenizer(chosen)
    _reconstruction(job, tokenizer, training, reference, found)
    with job.step("robustness"):
        batch = job.config["budget"]["evaluation"]["batch"]
        found.add(evaluate_robustness(tokenizer, job.dataset.test, batch=batch, device=job.device))
    others = [_cost_tokenizer(job, tokenizer, found)]
    found.add(_tuning_measures(trials, found.metrics, steps=job.config["budget"]["tokenizer"]["steps"]))
    if job.presets:
        others += run_blocks(job, tokenizer, reference, found)
    if job.config["stage"] != "tokenizer":
        with job.step("code length"):
            _code_length(job, tokenizer, found)
    path = _write(job, found, _environment(job, reference, max(others)))
    for preset in job.presets.values():
        forget(job, scheme_name(job, preset))
    if job.logger is not None:
        job.logger.log_hyperparams(build.hashed(job.config))
        job.logger.log_metrics({key: m.value for key, m in found.metrics.items() if m.value is not None})
    return path


def _environment(job: Job, reference: Reference, others: float) -> dict[str, JsonValue]:
    environment = describe(job.device) | reference.judges() | {"other_processes_cores": round(others, 3)}
    environment |= {"trained_on_features": list(job.trained_on)} if job.trained_on else {}
    environment |= {"image_codecs": dict(codec_versions())} if job.config["stage"] != "tokenizer" else {}
    return environment | {"checkout": checkout(Path(job.config["cache_dir"]))}


def _reconstruction(
    job: Job, tokenizer: Tokenizer, training: Training | None, reference: Reference, found: Found
) -> None:
    """Adds what is kept of the test images, the bits of their tokens, and, where the truth is known, what is still there."""
    test, batch = job.dataset.test, job.config["budget"]["evaluation"]["batch"]
    with job.step("reconstruction and bits"):
        result = evaluate_tokenizer(tokenizer, reference, batch=batch, device=job.device)
        pictured = some(len(result.images), PICTURED)
        found.add(result.measures, psnr_db=result.psnr_db.float(), ssim=result.ssim.float(), groups=test.groups)
        found.add(originals=test.images[pictured], reconstructions=result.images[pictured])
        found.add(**lost_maps(tokenizer, result, test))
        if result.rarefaction is not None:
            tokens, usage = result.rarefaction
            found.add(rarefaction_tokens=tokens, rarefaction_usage=usage.float())
        if training is not None:
            found.add(training_measures("", training) | fallbacks(tokenizer), loss_tokenizer=curve(training))
    if reference.reader is not None:
        with job.step("legibility"):
            bits = found.metrics["bits/nominal_bits_per_image"].value
            legible, shares = evaluate_legibility(result.images, reference, nominal_bits=bits)
            words = np.array([test.captions[i] for i in pictured.tolist()])
            found.add(legible, **shares, words=words)
    if reference.checker is not None:
        with job.step("scenes"):
            assert test.truth is not None
            exact, shown = evaluate_exactness("reconstruction/", result.images, test.truth, reference)
            found.add(exact | source_bits(job.dataset), caption_shown=shown)


def _cost_tokenizer(job: Job, tokenizer: Tokenizer, found: Found) -> float:
    """The cores that other processes used while the tokenizer was timed; its costs are added to `found`."""
    budget = job.config["budget"]
    rows = some(len(job.dataset.train), budget["tokenizer"]["batch"])
    images = job.dataset.train.images[rows]
    untrained, criterion = job.tokenizer(), job.criterion(steps=0)  # of no steps: an adversary is there from the first
    compared = () if criterion is None else (criterion,)

    def step() -> None:
        terms = tokenizer_loss(untrained, to_float(images.to(job.device)), *compared)
        torch.stack(list(terms.values())).sum().backward()

    with job.step("cost of the tokenizer"):
        if trainable(untrained):
            step()  # the first step may fit a codebook: counted once a training, not once a step, so not at all
        costs, others = tokenizer_costs(
            tokenizer,
            images,
            step=step if trainable(untrained) else None,
            steps=budget["tokenizer"]["steps"],
            device=job.device,
        )
    found.add(costs)
    return others


def _code_length(job: Job, tokenizer: Tokenizer, found: Found) -> None:
    """Adds the lossless code length, beside that of image codecs."""
    table = found.metrics.get("bits/table_bits_per_image")
    tokens = found.arrays.get("token_bits_native", found.arrays.get("token_bits_common"))
    measures, total = code_length_measures(
        job.dataset,
        code_length(job, tokenizer),
        tokens=None if tokens is None else torch.from_numpy(tokens),
        table_bits=None if table is None else table.value,
    )
    found.add(measures | codec_measures(job.dataset), lossless_bits=total)


def _tuning_measures(trials: Sequence[Trial], metrics: Measures, *, steps: int) -> Measures:
    """What the search cost and chose; nothing where there was none."""
    if not trials:
        return {}
    best = min(trials, key=lambda trial: trial.validation)
    step = (metrics["cost/tokenizer_training_flops"].value or 0.0) / steps
    values = {
        "cost/tuning_flops": step * sum(trial.steps for trial in trials),
        "training/tuning_trials": len(trials),
        "training/tuned_lr_factor": best.lr_factor,
        "training/tuned_weight_factor": best.weight_factor,
    }
    return {key: measured(key, value) for key, value in values.items()}


def _write(job: Job, found: Found, environment: dict[str, JsonValue]) -> Path:
    name = Path(job.file_name).with_suffix(".npz").name
    job.folder.mkdir(parents=True, exist_ok=True)
    files = {name: write_arrays(job.folder / name, found.arrays)}
    return write_record(_record(job, metrics=found.metrics, files=files, environment=environment), job.folder)


def write_failure(job: Job, error: BaseException) -> Path:
    """Record that the job failed and why."""
    job.folder.mkdir(parents=True, exist_ok=True)
    return write_record(_record(job, error=f"{type(error).__name__}: {error}".splitlines()[0]), job.folder)


def _record(
    job: Job,
    *,
    metrics: Measures | None = None,
    files: dict[str, str] | None = None,
    error: str | None = None,
    environment: dict[str, JsonValue] | None = None,
) -> RunRecord:
    config, dataset = job.config, job.dataset
    return RunRecord(
        schema_version=SCHEMA_VERSION,
        name=config["name"],
        status="failed" if error else "ok",
        stage=config["stage"],
        seed=config["seed"],
        budget=config["budget"]["name"],
        hash=job.hash,
        config=build.hashed(config),
        data=DataInfo(
            name=dataset.name,
            ranked=dataset.ranked,
            fingerprints=job.fingerprints,
            sizes={k: len(v) for k, v in dataset.splits.items()},
            skipped=dataset.skipped,
        ),
        blocks={block: preset["name"] for block, preset in job.presets.items()},  # type: ignore[misc]
        metrics=metrics or {},
        versions=job.versions,
        environment=environment or describe(job.device),
        files=files or {},
        error=error,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seconds=job.seconds,
    )
