"""One run: from plain values to a record, its arrays and its pictures' pixels."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from tokbench import build
from tokbench.data.common import fingerprint, subset
from tokbench.environment import describe
from tokbench.evaluate.baselines import evaluate_baselines
from tokbench.evaluate.costs import scheme_costs, tokenizer_costs, training_step_flops
from tokbench.evaluate.generation import Sizes, evaluate_generation, evaluate_likelihood, evaluate_understanding
from tokbench.evaluate.measures import Measures, measured
from tokbench.evaluate.reference import Reference, some
from tokbench.evaluate.tokenizer import evaluate_tokenizer
from tokbench.evaluate.tokens import TokenTable, encode_split, token_space
from tokbench.interfaces import Dataset, Scheme, Tokenizer, TokenSpace
from tokbench.judges import ColourClassifier, train_classifier
from tokbench.metrics.images import to_float
from tokbench.records import DataInfo, RunRecord, find_record, record_file_name, write_arrays, write_record
from tokbench.tokenizers.check import check_tokenizer
from tokbench.train import Training, fit

Values = Mapping[str, Any]
PICTURED = 16
JUDGE_WIDTH = 32
CURVE_POINTS = 200
ROOMS = tuple(
    f"tokbench.{room}"
    for room in (
        "train judges cost diffusion layers evaluate.tokenizer evaluate.generation evaluate.baselines evaluate.costs "
        "evaluate.tokens evaluate.reference metrics.images metrics.features metrics.codes backbone.transformer "
        "backbone.positions backbone.sequence quantizers.nearest quantizers.estimators data.common"
    ).split()
)


@dataclass
class Job:
    """A run that could start: everything that can be wrong with its values has been looked at."""

    config: Values
    device: torch.device
    dataset: Dataset
    fingerprints: dict[str, str]
    versions: dict[str, int]
    hash: str
    presets: dict[str, Values]  # generation block to preset
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.config["results_dir"]) / "runs"

    @property
    def file_name(self) -> str:
        return record_file_name(self.config["name"], self.config["seed"], self.hash)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Files the wall time of its body under `name` and says on the terminal what goes on."""
        print(f"[{self.config['name']} s{self.config['seed']}] {name} ...", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer as the seed draws it, on the device."""
        torch.manual_seed(self.config["seed"])
        node = self.config["tokenizer"]
        wanted = {"quantizer": build.construct(self.config["quantizer"])} if build.takes(node, "quantizer") else {}
        tokenizer = build.construct(node, **wanted)
        return tokenizer.to(self.device) if isinstance(tokenizer, nn.Module) else tokenizer

    def scheme(self, preset: Values, space: TokenSpace) -> Scheme:
        """The generation scheme as the seed draws it, on the device."""
        torch.manual_seed(self.config["seed"])
        backbone = build.construct(self.config["backbone"], dim=space.dim, grid=space.shape)
        parts = [backbone]
        if preset["head"]:
            parts.append(build.construct(preset["head"], width=backbone.width, codebook_sizes=space.codebook_sizes))
        return build.construct(preset["scheme"], space, *parts).to(self.device)


def prepare(config: Values) -> Job:
    """The job behind `config`; ValueError in one line for whatever a user can get wrong."""
    if config["stage"] not in ("all", "tokenizer"):
        raise ValueError(f"stage must be all or tokenizer, got {config['stage']!r}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset, fingerprints = _dataset(json.dumps([config["data"], config["budget"]["images"]], sort_keys=True))
    presets = _presets(config["generation"])
    nodes = [config["data"], config["tokenizer"], config["quantizer"], config["backbone"]]
    nodes += [node for preset in presets.values() for node in (preset["scheme"], preset["head"])]
    versions = build.versions(nodes, ROOMS)
    job = Job(config, device, dataset, fingerprints, versions, build.run_hash(config, fingerprints, versions), {})
    tokenizer = job.tokenizer()
    size = dataset.train.images.shape[-1]
    check_tokenizer(tokenizer, size=size)
    if config["stage"] == "all":
        job.presets = _presets(config["generation"], discrete=bool(tokenizer.codebook_sizes))
        zeros = torch.zeros(tokenizer.dim)
        sizes = tuple(tokenizer.codebook_sizes)
        space = TokenSpace(tokenizer.shape(size, size), tokenizer.dim, sizes, zeros, zeros + 1, tokenizer.indices_to_codes)
        for preset in job.presets.values():
            job.scheme(preset, space)
    return job


def _presets(generation: Values, *, discrete: bool | None = None) -> dict[str, Values]:
    """The preset of each block. A single preset fills the common block if it needs no head, else the native one."""
    if "scheme" in generation:
        return {"native" if generation["head"] else "common": generation}
    if discrete is None:
        return dict(generation)
    return {"common": generation["common"], "native": generation["native_discrete" if discrete else "native_continuous"]}


@lru_cache(maxsize=1)
def _dataset(key: str) -> tuple[Dataset, dict[str, str]]:
    node, limits = json.loads(key)
    dataset: Dataset = build.construct(node)
    limited = {}
    for name, split in dataset.splits.items():
        most = limits["test" if name == "generation" else name]
        limited[name] = split if most is None else subset(split, some(len(split), most).sort().values)
    dataset = replace(dataset, **limited)
    return dataset, {name: fingerprint(split) for name, split in dataset.splits.items()}


@lru_cache(maxsize=1)
def _reference(key: str, steps: int, cache: Path) -> Reference:
    dataset, fingerprints = _dataset(key)
    if dataset.train.labels is None or len(dataset.class_names) < 2:
        return Reference(dataset, None, None)
    classifier = train_classifier(
        dataset.train,
        dataset.validation,
        len(dataset.class_names),
        width=JUDGE_WIDTH,
        steps=steps,
        seed=0,
        fingerprint=fingerprints["train"],
        cache=cache / "judges",
    )
    return Reference(dataset, classifier, ColourClassifier(dataset.train, len(dataset.class_names)))


def recorded(job: Job) -> Path | None:
    """The record of this very run, if there is one."""
    found = find_record(job.folder, job.config["name"], job.config["seed"], job.hash)
    return job.folder / found.file_name if found is not None and found.status == "ok" else None


def execute(job: Job) -> Path:
    """Train, judge, measure and record; the path of the record, which is written last."""
    config, budget, device = job.config, job.config["budget"], job.device
    metrics: Measures = {}
    arrays: dict[str, np.ndarray] = {}
    with job.step("judges"):
        key = json.dumps([config["data"], budget["images"]], sort_keys=True)
        reference = _reference(key, budget["judge"]["steps"], Path(config["cache_dir"]))
        metrics |= evaluate_baselines(reference, samples=budget["evaluation"]["samples"])
    with job.step("train tokenizer"):
        tokenizer, training = trained_tokenizer(job)
    with job.step("reconstruction and bits"):
        result = evaluate_tokenizer(tokenizer, reference, batch=budget["evaluation"]["batch"], device=device)
        metrics |= result.measures
        pictured = some(len(result.images), PICTURED)
        originals = job.dataset.test.images[pictured]
        arrays |= {"psnr_db": _array(result.psnr_db.float()), "ssim": _array(result.ssim.float())}
        arrays |= {"groups": _array(job.dataset.test.groups)}
        arrays |= {"originals": _array(originals), "reconstructions": _array(result.images[pictured])}
        if training is not None:
            metrics |= _training_measures("", training)
            arrays["loss_tokenizer"] = _curve(training)
    others = [_cost_tokenizer(job, tokenizer, metrics)]
    if job.presets:
        others += _generation(job, tokenizer, reference, metrics, arrays)
    return _write(job, metrics, arrays, others_cores=max(others))


def _cost_tokenizer(job: Job, tokenizer: Tokenizer, metrics: Measures) -> float:
    budget = job.config["budget"]
    rows = some(len(job.dataset.train), budget["tokenizer"]["batch"])
    images = job.dataset.train.images[rows]
    untrained = job.tokenizer()

    def step() -> None:
        torch.stack(list(tokenizer_loss(untrained, to_float(images.to(job.device))).values())).sum().backward()

    with job.step("cost of the tokenizer"):
        found, others = tokenizer_costs(
            tokenizer,
            images,
            step=step if _trainable(untrained) else None,
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
    others, done = [], {}
    for block, preset in job.presets.items():
        if preset["name"] in done:
            _repeat(metrics, arrays, done[preset["name"]], block)
            continue
        others.append(_block(job, block, preset, tokenizer, space, tables, reference, metrics, arrays))
        done[preset["name"]] = block
    rows = some(len(dataset.generation), PICTURED)
    arrays["sample_captions"] = np.array([dataset.generation.captions[i] for i in rows.tolist()])
    return others


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
) -> float:
    dataset, sizes = job.dataset, _sizes(job.config["budget"]["evaluation"])
    with job.step(f"train {preset['name']}"):
        scheme, training = trained_scheme(job, preset, space, tables)
    metrics |= _training_measures(f"{block}/", training)
    arrays[f"loss_{block}"] = _curve(training)
    with job.step(f"judge {preset['name']}"):
        pixels = dataset.train.images.shape[-1] * dataset.train.images.shape[-2]
        held_out = tables["generation"]
        metrics |= evaluate_likelihood(block, scheme, space, held_out, pixels=pixels, sizes=sizes)
        metrics |= evaluate_understanding(
            block, scheme, space, held_out, dataset.generation, dataset.class_names, sizes
        )
        found, samples = evaluate_generation(
            block, scheme, tokenizer, reference, sizes, seed=job.config["seed"], device=job.device
        )
        metrics |= found
        arrays[f"samples_{block}"] = _array(samples[:PICTURED])
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
            training_flops=budget["steps"] * training_step_flops(scheme, batch),
            device=job.device,
        )
        metrics |= found
    return others


def _sizes(evaluation: Values) -> Sizes:
    names = ("samples", "tuning_samples", "understanding", "batch")
    return Sizes(**{n: evaluation[n] for n in names}, guidances=tuple(evaluation["guidances"]))


def tokenizer_loss(tokenizer: Tokenizer, images: Tensor) -> dict[str, Tensor]:
    """Weighted scalar terms on (B, 3, H, W) images in [-1, 1]: mean squared error, and the quantizer's losses."""
    quantized = tokenizer.encode(images)
    reconstruction = nn.functional.mse_loss(tokenizer.decode(quantized.z_q).float(), images)
    weights = tokenizer.loss_weights
    return {"reconstruction": reconstruction} | {k: weights[k] * v for k, v in quantized.losses.items()}


def _trainable(tokenizer: Tokenizer) -> bool:
    return isinstance(tokenizer, nn.Module) and any(p.requires_grad for p in tokenizer.parameters())


def trained_tokenizer(job: Job) -> tuple[Tokenizer, Training | None]:
    """The tokenizer, trained and frozen, in eval mode, and its training; from the cache where these very weights are kept."""
    tokenizer, budget = job.tokenizer(), job.config["budget"]
    if not isinstance(tokenizer, nn.Module):
        return tokenizer, None
    if not _trainable(tokenizer):
        return tokenizer.eval(), None  # type: ignore[return-value]
    parts = [job.config[k] for k in ("tokenizer", "quantizer", "seed")] + [budget["tokenizer"], budget["precision"]]
    used = build.versions([job.config["tokenizer"], job.config["quantizer"]], ROOMS)
    path = Path(job.config["cache_dir"]) / "tokenizers" / f"{build.digest(parts, used, job.fingerprints)}.pt"
    if path.exists() and not job.config["force"]:
        kept = torch.load(path, map_location=job.device, weights_only=True)
        tokenizer.load_state_dict(kept["weights"])
        training = Training(**kept["training"])
    else:
        training = _fit_tokenizer(job, tokenizer)
        _save(path, {"weights": tokenizer.state_dict(), "training": vars(training)})
    return tokenizer.eval().requires_grad_(False), training  # type: ignore[return-value]


def _fit_tokenizer(job: Job, tokenizer: Any) -> Training:
    options = dict(job.config["budget"]["tokenizer"])
    train, validation = (job.dataset.splits[n].images.to(job.device) for n in ("train", "validation"))
    size = options["batch"]

    def draw(generator: Generator) -> Tensor:
        rows = torch.randint(len(train), (size,), generator=generator)
        return to_float(train[rows.to(train.device)])

    def loss(images: Tensor) -> dict[str, Tensor]:
        return tokenizer_loss(tokenizer, images)

    def held_out() -> float:
        terms = [sum(loss(to_float(part)).values()) * len(part) for part in validation.split(256)]  # type: ignore[operator]
        return float(sum(terms)) / len(validation)

    return fit(tokenizer, loss, draw, validation=held_out, **_fit_options(job, "tokenizer"))


def trained_scheme(
    job: Job, preset: Values, space: TokenSpace, tables: Mapping[str, TokenTable]
) -> tuple[Scheme, Training]:
    """A scheme trained on the tokens of the training split, in eval mode, and its training."""
    scheme: Any = job.scheme(preset, space)
    size, seed = job.config["budget"]["backbone"]["batch"], job.config["seed"]
    noise = torch.Generator(job.device).manual_seed(seed + 1)
    weights = scheme.loss_weights

    def weighted(batch: Any, generator: Generator) -> dict[str, Tensor]:
        return {k: weights[k] * v for k, v in scheme.loss(batch, generator).items()}

    def held_out() -> float:
        generator = torch.Generator(job.device).manual_seed(0)
        parts = torch.arange(len(tables["validation"])).split(size)
        losses = [sum(weighted(tables["validation"].batch(space, p), generator).values()) * len(p) for p in parts]  # type: ignore[operator]
        return float(sum(losses)) / len(tables["validation"])

    training = fit(
        scheme,
        lambda batch: weighted(batch, noise),
        lambda generator: tables["train"].draw(space, size, generator),
        validation=held_out,
        **_fit_options(job, "backbone"),
    )
    return scheme, training


def _fit_options(job: Job, part: str) -> dict[str, Any]:
    budget = job.config["budget"]
    options = {name: budget[part][name] for name in ("steps", "lr", "weight_decay", "clip")}
    logger = build.construct(job.config["logger"]) if job.config["logger"]["_target_"] else None
    return options | {"seed": job.config["seed"], "precision": budget["precision"], "logger": logger}


def _training_measures(prefix: str, training: Training) -> Measures:
    values = {
        "final_loss": training.final_loss,
        "flattened": float(training.flattened),
        "best_step": float(training.best_step),
    }
    return {f"{prefix}training/{k}": measured(f"{prefix}training/{k}", v) for k, v in values.items()}


def _curve(training: Training) -> np.ndarray:
    """(k, 2) step and mean loss of the steps since the last point."""
    losses = np.array(training.losses, dtype=np.float32)
    parts = np.array_split(np.arange(len(losses)), min(CURVE_POINTS, len(losses)))
    return np.array([(part[-1] + 1, losses[part].mean()) for part in parts], dtype=np.float32)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


def _save(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        torch.save(content, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _write(job: Job, metrics: Measures, arrays: Mapping[str, np.ndarray], *, others_cores: float) -> Path:
    name = Path(job.file_name).with_suffix(".npz").name
    job.folder.mkdir(parents=True, exist_ok=True)
    files = {name: write_arrays(job.folder / name, arrays)}
    return write_record(_record(job, metrics=metrics, files=files, others_cores=others_cores), job.folder)


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
    others_cores: float | None = None,
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
        environment=describe(job.device) | {"other_processes_cores": others_cores},
        files=files or {},
        error=error,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        seconds=job.seconds,
    )
