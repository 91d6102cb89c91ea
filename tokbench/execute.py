"""One run from its start to its record: train, judge, measure, and write the record last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from tokbench import build
from tokbench.data.kodak import read_kodak
from tokbench.environment import describe
from tokbench.evaluate.baselines import evaluate_baselines
from tokbench.evaluate.choices import evaluate_choices
from tokbench.evaluate.code_length import codec_measures, evaluate_code_length, token_bits
from tokbench.evaluate.coded import evaluate_backbone_coding, evaluate_tables
from tokbench.evaluate.completions import complete, say
from tokbench.evaluate.costs import scheme_costs, tokenizer_costs, training_proxy, training_step_flops
from tokbench.evaluate.exactness import evaluate_exactness, exactness_baselines, source_bits
from tokbench.evaluate.few_steps import evaluate_few_steps
from tokbench.evaluate.generation import (
    Sizes,
    evaluate_generation,
    evaluate_likelihood,
    evaluate_text,
    evaluate_understanding,
)
from tokbench.evaluate.kodak import Photographs, evaluate_photograph_bits, evaluate_photographs, tokenize
from tokbench.evaluate.legibility import evaluate_legibility, legibility_baselines
from tokbench.evaluate.maps import lost_maps
from tokbench.evaluate.measures import Measures, measured
from tokbench.evaluate.reference import Reference, some
from tokbench.evaluate.robustness import evaluate_robustness
from tokbench.evaluate.shapes import evaluate_shapes
from tokbench.evaluate.tokenizer import evaluate_tokenizer
from tokbench.evaluate.tokens import TokenTable, encode_split, token_space
from tokbench.generation.denoise import Denoise
from tokbench.generation.masked import Masked
from tokbench.interfaces import Scheme, Tokenizer, TokenSpace
from tokbench.job import Job, Values, checkout, data_key, load_dataset
from tokbench.judges import ColourClassifier, train_classifier
from tokbench.judges_checker import train_checker
from tokbench.judges_reader import train_reader
from tokbench.metrics.images import to_float
from tokbench.pairs import evaluate_pairs
from tokbench.records import DataInfo, RunRecord, write_arrays, write_record
from tokbench.stages import forget, scheme_name, tokenizer_loss, trainable, trained_scheme, trained_tokenizer
from tokbench.train import Training
from tokbench.tune import Trial, tune

VERSION = 1
PICTURED = 16
JUDGE_WIDTH, TRUTH_WIDTH = 32, 16
CURVE_POINTS = 200


def execute(job: Job) -> Path:
    """Train, judge, measure and record; the path of the record, which is written last."""
    config, budget, device = job.config, job.config["budget"], job.device
    metrics: Measures = {}
    arrays: dict[str, np.ndarray] = {}
    with job.step("judges"):
        arguments = data_key(config), budget["judge"]["steps"], Path(config["cache_dir"])
        reference = _reference(*arguments)
        metrics |= _baselines(*arguments, budget["evaluation"]["samples"])
    chosen, trials = job, list[Trial]()
    if "tuning" in config:
        with job.step("tune tokenizer"):
            chosen, trials = tune(job)
    with job.step("train tokenizer"):
        tokenizer, training = trained_tokenizer(chosen)
    with job.step("reconstruction and bits"):
        result = evaluate_tokenizer(tokenizer, reference, batch=budget["evaluation"]["batch"], device=device)
        metrics |= result.measures
        pictured = some(len(result.images), PICTURED)
        originals = job.dataset.test.images[pictured]
        arrays |= {"psnr_db": _array(result.psnr_db.float()), "ssim": _array(result.ssim.float())}
        arrays |= {"groups": _array(job.dataset.test.groups)}
        arrays |= {"originals": _array(originals), "reconstructions": _array(result.images[pictured])}
        lost = lost_maps(tokenizer, result, job.dataset.test)
        arrays |= {name: _array(values) for name, values in lost.items()}
        if result.rarefaction is not None:
            tokens, usage = result.rarefaction
            arrays |= {"rarefaction_tokens": _array(tokens), "rarefaction_usage": _array(usage.float())}
        if training is not None:
            metrics |= _training_measures("", training) | _fallbacks(tokenizer)
            arrays["loss_tokenizer"] = _curve(training)
    if reference.reader is not None:
        with job.step("legibility"):
            bits = metrics["bits/nominal_bits_per_image"].value
            legible, shares = evaluate_legibility(result.images, reference, nominal_bits=bits)
            metrics |= legible
            arrays |= {name: _array(share) for name, share in shares.items()}
            arrays["words"] = np.array([job.dataset.test.captions[i] for i in pictured.tolist()])
    if reference.checker is not None:
        with job.step("scenes"):
            truth = job.dataset.test.truth
            assert truth is not None
            exact, shown = evaluate_exactness("reconstruction/", result.images, truth, reference)
            metrics |= exact | source_bits(job.dataset)
            arrays["caption_shown"] = _array(shown)
    with job.step("robustness"):
        batch = budget["evaluation"]["batch"]
        metrics |= evaluate_robustness(tokenizer, job.dataset.test, batch=batch, device=device)
    others = [_cost_tokenizer(job, tokenizer, metrics)]
    metrics |= _tuning_measures(trials, metrics, steps=budget["tokenizer"]["steps"])
    if job.presets:
        others += _generation(job, tokenizer, reference, metrics, arrays)
    if config["stage"] != "tokenizer":
        with job.step("code length"):
            _code_length(job, tokenizer, metrics, arrays)
    environment = describe(device) | reference.judges() | {"other_processes_cores": round(max(others), 3)}
    environment |= {"trained_on_features": list(job.trained_on)} if job.trained_on else {}
    environment["checkout"] = checkout(Path(config["cache_dir"]))
    path = _write(job, metrics, arrays, environment)
    for preset in job.presets.values():
        forget(job, scheme_name(job, preset))
    if job.logger is not None:
        job.logger.log_hyperparams(build.hashed(config))
        job.logger.log_metrics({key: found.value for key, found in metrics.items() if found.value is not None})
    return path


def _cost_tokenizer(job: Job, tokenizer: Tokenizer, metrics: Measures) -> float:
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
        found, others = tokenizer_costs(
            tokenizer,
            images,
            step=step if trainable(untrained) else None,
            steps=budget["tokenizer"]["steps"],
            device=job.device,
        )
    metrics |= found
    return others


def _generation(
    job: Job, tokenizer: Tokenizer, reference: Reference, metrics: Measures, arrays: dict[str, np.ndarray]
) -> list[float]:
    """Adds the measures and arrays of each block; a block that repeats another's preset repeats its numbers."""
    dataset, budget = job.dataset, job.config["budget"]
    with job.step("encode"):
        batch = budget["evaluation"]["batch"]
        splits = ("train", "validation", "generation")
        tables = {n: encode_split(tokenizer, dataset.splits[n], batch=batch, device=job.device) for n in splits}
        space = token_space(tokenizer, tables["train"], size=dataset.train.images.shape[-1])
        metrics |= evaluate_tables(space, tables["train"], tables["generation"])
    photographs = _photographs(job, tokenizer, space, tables["train"], metrics, arrays) if "rd" in job.config else None
    others: list[float] = []
    done: dict[str, str] = {}
    for block, preset in job.presets.items():
        if preset["name"] in done:
            _repeat(metrics, arrays, done[preset["name"]], block)
            continue
        others += _block(job, block, preset, tokenizer, space, tables, reference, metrics, arrays, photographs)
        done[preset["name"]] = block
    rows = some(len(dataset.generation), PICTURED)
    arrays["sample_captions"] = np.array([dataset.generation.captions[i] for i in rows.tolist()])
    return others


def _photographs(
    job: Job,
    tokenizer: Tokenizer,
    space: TokenSpace,
    train: TokenTable,
    metrics: Measures,
    arrays: dict[str, np.ndarray],
) -> Photographs:
    batch, size = job.config["budget"]["evaluation"]["batch"], job.dataset.train.images.shape[-1]
    with job.step("photographs"):
        found = tokenize(tokenizer, read_kodak(job.config["rd"]["root"]), size=size, batch=batch, device=job.device)
        measures, vectors = evaluate_photographs(tokenizer, found, space, train, batch=batch)
    metrics |= measures
    arrays |= vectors
    return found


def _repeat(metrics: Measures, arrays: dict[str, np.ndarray], source: str, block: str) -> None:
    metrics |= {block + key[len(source) :]: value for key, value in metrics.items() if key.startswith(f"{source}/")}
    arrays |= {key.replace(source, block): value for key, value in arrays.items() if key.endswith(f"_{source}")}


def _block(
    job: Job,
    block: str,
    preset: Values,
    tokenizer: Tokenizer,
    space: TokenSpace,
    tables: Mapping[str, TokenTable],
    reference: Reference,
    metrics: Measures,
    arrays: dict[str, np.ndarray],
    photographs: Photographs | None,
) -> list[float]:
    dataset, sizes = job.dataset, _sizes(job.config["budget"]["evaluation"])
    with job.step(f"train {preset['name']}"):
        scheme, training = trained_scheme(job, preset, space, tables)
    metrics |= _training_measures(f"{block}/", training)
    metrics[f"{block}/training/steps"] = measured(f"{block}/training/steps", len(training.losses))
    arrays[f"loss_{block}"] = _curve(training)
    with job.step(f"judge {preset['name']}"):
        pixels = dataset.train.images.shape[-1] * dataset.train.images.shape[-2]
        held_out = tables["generation"]
        found, by_position = evaluate_likelihood(block, scheme, space, held_out, pixels=pixels, sizes=sizes)
        metrics |= found
        if by_position is not None:
            arrays[f"nll_by_position_{block}"] = _array(by_position)
        metrics |= evaluate_backbone_coding(block, scheme, space, held_out)
        if photographs is not None:
            measures, vectors = evaluate_photograph_bits(block, scheme, space, photographs, batch=sizes.batch)
            metrics |= measures
            arrays |= vectors
        bits = token_bits(scheme, space, held_out, batch=sizes.batch)
        if bits is not None:
            arrays[f"token_bits_{block}"] = _array(bits)
        if job.config["stage"] == "bits":
            return []
        metrics |= evaluate_text(block, scheme, space, held_out, sizes)
        metrics |= evaluate_understanding(
            block, scheme, space, held_out, dataset.generation, dataset.class_names, sizes
        )
        if dataset.generation.truth is not None:
            many = {"images": sizes.understanding, "batch": sizes.batch}
            metrics |= evaluate_choices(block, scheme, space, held_out, dataset.generation, **many)
        found, samples = evaluate_generation(
            block, scheme, tokenizer, reference, sizes, seed=job.config["seed"], device=job.device
        )
        metrics |= found
        if job.config.get("shapes"):
            many = {"images": sizes.understanding, "batch": sizes.batch}
            metrics |= evaluate_shapes(block, scheme, tokenizer, space, dataset.generation, **many)
        arrays[f"samples_{block}"] = _array(samples[:PICTURED])
        arrays |= _completions(job, block, scheme, tokenizer, space, held_out)
        if job.config.get("few_steps"):
            guidance = metrics[f"{block}/guided/guidance"].value or 1.0
            options = {"most": job.config["few_steps"], "guidance": guidance, "seed": job.config["seed"]}
            metrics |= evaluate_few_steps(block, scheme, tokenizer, reference, sizes, device=job.device, **options)
    with job.step(f"cost of {preset['name']}"):
        budget = job.config["budget"]["backbone"]
        batch = tables["train"].batch(space, some(len(tables["train"]), budget["batch"]))
        found, others = scheme_costs(
            block,
            scheme,
            tokenizer,
            space,
            caption=dataset.generation.captions[0],
            batch=job.config["budget"]["evaluation"]["throughput_batch"],
            training_flops=len(training.losses) * training_step_flops(scheme, batch),
            device=job.device,
        )
        key = f"{block}/cost/training_flops_proxy"
        metrics |= found | {key: measured(key, len(training.losses) * training_proxy(scheme, batch))}
    if job.config.get("pairs"):
        with job.step(f"pairs of {preset['name']}"):  # last: it trains the scheme on
            metrics |= evaluate_pairs(block, job, scheme, tokenizer, space)
    return [others]


def _completions(
    job: Job, block: str, scheme: Scheme, tokenizer: Tokenizer, space: TokenSpace, table: TokenTable
) -> dict[str, np.ndarray]:
    """Pictures: what free runs say, and the other halves of images where the scheme can paint a part."""
    seed, size = job.config["seed"], job.dataset.train.images.shape[-1]
    images, words = say(scheme, tokenizer, seed=seed, size=size, device=job.device)
    found = {f"free_{block}": _array(images), f"free_words_{block}": np.array(words)}
    if isinstance(scheme, Masked | Denoise):
        halves = complete(scheme, tokenizer, space, table, seed=seed, count=PICTURED)
        originals = job.dataset.generation.images[some(len(table), PICTURED)]
        found |= {f"completed_{block}": _array(halves), "completion_originals": _array(originals)}
    return found


def _code_length(job: Job, tokenizer: Tokenizer, metrics: Measures, arrays: dict[str, np.ndarray]) -> None:
    """Adds the lossless code length, beside that of image codecs."""
    table, evaluation = metrics.get("bits/table_bits_per_image"), job.config["budget"]["evaluation"]
    tokens = arrays.get("token_bits_native", arrays.get("token_bits_common"))
    found, total = evaluate_code_length(
        tokenizer,
        job.dataset,
        tokens=None if tokens is None else torch.from_numpy(tokens),
        table_bits=None if table is None else table.value,
        steps=job.config["budget"]["judge"]["steps"],
        batch=evaluation["batch"],
        device=job.device,
    )
    metrics |= found | codec_measures(job.dataset)
    if total is not None:
        arrays["lossless_bits"] = _array(total)


def _sizes(evaluation: Values) -> Sizes:
    names = ("samples", "tuning_samples", "understanding", "batch")
    return Sizes(**{n: evaluation[n] for n in names}, guidances=tuple(evaluation["guidances"]))


@lru_cache(maxsize=1)
def _reference(key: str, steps: int, cache: Path) -> Reference:
    dataset, fingerprints = load_dataset(key)
    splits = dataset.train, dataset.validation
    options: dict[str, Any] = {"steps": steps, "seed": 0, "fingerprint": fingerprints["train"]}
    options |= {"cache": cache / "judges", "device": "cuda" if torch.cuda.is_available() else "cpu"}
    if "characters" in (dataset.train.truth or {}):
        return Reference(dataset, None, None, reader=train_reader(*splits, width=TRUTH_WIDTH, **options))
    if "relation" in (dataset.train.truth or {}):
        return Reference(dataset, None, None, checker=train_checker(*splits, width=TRUTH_WIDTH, **options))
    if dataset.train.labels is None or len(dataset.class_names) < 2:
        return Reference(dataset, None, None)
    classifier = train_classifier(*splits, len(dataset.class_names), width=JUDGE_WIDTH, **options)
    return Reference(dataset, classifier, ColourClassifier(dataset.train, len(dataset.class_names)))


@lru_cache(maxsize=1)
def _baselines(key: str, steps: int, cache: Path, samples: int) -> Measures:
    reference = _reference(key, steps, cache)
    measures = evaluate_baselines(reference, samples=samples)
    if reference.reader is not None:
        measures |= legibility_baselines(reference)
    return measures if reference.checker is None else measures | exactness_baselines(reference)


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


def _training_measures(prefix: str, training: Training) -> Measures:
    values = {
        "final_loss": training.final_loss,
        "flattened": float(training.flattened),
        "best_step": float(training.best_step),
    } | ({"micro_batches": float(training.micro_batches)} if training.micro_batches > 1 else {})
    return {f"{prefix}training/{k}": measured(f"{prefix}training/{k}", v) for k, v in values.items()}


def _fallbacks(tokenizer: Tokenizer) -> Measures:
    """Tokens of the training that the rotation trick could not rotate, where it was used."""
    modules = tokenizer.modules() if isinstance(tokenizer, nn.Module) else ()
    counts = [int(found.sum()) for module in modules if isinstance(found := getattr(module, "fallbacks", None), Tensor)]
    key = "training/rotation_fallbacks"
    return {key: measured(key, sum(counts))} if counts else {}


def _curve(training: Training) -> np.ndarray:
    """(k, 2) step and mean loss of the steps since the last point."""
    losses = np.array(training.losses, dtype=np.float32)
    parts = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    return np.array([(part[-1] + 1, losses[part].mean()) for part in parts], dtype=np.float32)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _write(job: Job, metrics: Measures, arrays: Mapping[str, np.ndarray], environment: dict[str, JsonValue]) -> Path:
    name = Path(job.file_name).with_suffix(".npz").name
    job.folder.mkdir(parents=True, exist_ok=True)
    files = {name: write_arrays(job.folder / name, arrays)}
    return write_record(_record(job, metrics=metrics, files=files, environment=environment), job.folder)


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
