"""One run before it starts: everything that can be wrong with its values has been looked at."""

from __future__ import annotations

import json
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tokbench import build
from tokbench.backbone.sequence import check_text
from tokbench.backbone.transformer import Backbone
from tokbench.data.common import fingerprint, subset
from tokbench.data.kodak import kodak_paths
from tokbench.evaluate.reference import some
from tokbench.evaluate.tokens import space_of
from tokbench.generation.tokens import check_scheme, grouped
from tokbench.identity import Values, identify, presets_of
from tokbench.interfaces import Dataset, Scheme, Tokenizer, TokenSpace
from tokbench.locks import held
from tokbench.metrics.standard_shapes import SHAPES
from tokbench.places import check_devices, chosen_device
from tokbench.records import NAME, find_record, read_records, record_file_name, write_whole
from tokbench.tokenizers.check import check_tokenizer
from tokbench.values import check_config

VERSION = 1
STAGES = ("all", "bits", "tokenizer")
REUSE = ("here", "anywhere")  # where the record of a finished run may come from
MOST_TOKENS_ON_CPU = 1024  # of an image: attention and sampling of more take hours at any budget


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
    trained_on: tuple[str, ...] = ()  # networks whose features the tokenizer's loss is computed on
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.config["results_dir"]) / "runs"

    @property
    def file_name(self) -> str:
        return record_file_name(self.config["name"], self.config["seed"], self.hash)

    @cached_property
    def logger(self) -> Any | None:
        """Where curves and final numbers go while they are made; None for nowhere."""
        node = self.config["logger"]
        name = f"{self.config['name']}-s{self.config['seed']}"
        return build.construct(node, name=name) if node["_target_"] else None

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Files the wall time of its body under `name` and says on the terminal what goes on."""
        print(f"[{self.config['name']} s{self.config['seed']}] {name} ...", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer as the seed draws it, on the device."""
        node, wanted = self.config["tokenizer"], {}
        if build.takes(node, "quantizer"):
            torch.manual_seed(self.config["seed"])
            wanted["quantizer"] = build.construct(self.config["quantizer"])
        if build.takes(node, "size") and "size" not in node:
            wanted["size"] = self.dataset.train.images.shape[-1]
        torch.manual_seed(self.config["seed"])  # again: what a quantizer draws must not change the autoencoder's start
        tokenizer = build.construct(node, **wanted)
        return tokenizer.to(self.device) if hasattr(tokenizer, "to") else tokenizer

    def criterion(self, *, steps: int) -> Any | None:
        """What a reconstruction is compared by in a training of so many steps, on the device; None for the squared error."""
        node = self.config.get("loss")
        if not node:
            return None
        torch.manual_seed(self.config["seed"])
        return build.construct(node, steps=steps).to(self.device)

    def scheme(self, preset: Values, space: TokenSpace) -> Scheme:
        """The generation scheme as the seed draws it, on the device."""
        torch.manual_seed(self.config["seed"])
        dim, grid = grouped(space, preset["scheme"].get("patch", 1))
        backbone = build.construct(self.config["backbone"], dim=dim, grid=grid)
        parts = [backbone]
        if preset["head"]:
            known = {"width": backbone.width, "dim": space.dim}
            known |= {"codebook_sizes": space.codebook_sizes, "factors": space.factors}
            wanted = {name: value for name, value in known.items() if build.takes(preset["head"], name)}
            parts.append(build.construct(preset["head"], **wanted))
        return build.construct(preset["scheme"], space, *parts).to(self.device)


def prepare(config: Values) -> Job:
    """The job behind `config`; ValueError in one line for whatever a user can get wrong."""
    if not build.takes(config["tokenizer"], "quantizer"):
        config = {**config, "quantizer": None, "choices": {**config["choices"], "quantizer": None}}
    if config["stage"] not in STAGES:
        raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {config['stage']!r}")
    if config["reuse"] not in REUSE:
        raise ValueError(f"reuse must be one of {', '.join(REUSE)}, got {config['reuse']!r}")
    if not re.fullmatch(NAME, str(config["name"])):
        raise ValueError(f"name must be letters, digits, '.', '_' and '-', got {config['name']!r}")
    check_config(config)
    if "rd" in config:
        if config["stage"] == "tokenizer":
            raise ValueError("rd=kodak measures model bits, which stage=tokenizer has none of; use another stage")
        kodak_paths(config["rd"]["root"])
    device = chosen_device()
    check_devices(config)
    dataset, fingerprints = load_dataset(data_key(config))
    job = Job(config, device, dataset, fingerprints, {}, "", {})
    tokenizer = job.tokenizer()
    size = dataset.train.images.shape[-1]
    check_tokenizer(tokenizer, size=size)
    shapes = [tokenizer.shape(rows * size, columns * size) for rows, columns in SHAPES if config.get("shapes")]
    if config.get("pairs") and config["pairs"]["side"] > size:
        raise ValueError(f"pairs.side must be <= the side of an image, {size}, got {config['pairs']['side']}")
    config = job.config = _with_loss(job, tokenizer)
    found = identify(config, job.fingerprints, codebooks=len(tokenizer.codebook_sizes))
    job.config, job.versions, job.hash = found
    presets = _trained_presets(config, tokenizer)
    if presets:
        zeros = torch.zeros(tokenizer.dim)
        space = space_of(tokenizer, zeros, zeros + 1, size=size)
        if device.type == "cpu" and space.num_tokens > MOST_TOKENS_ON_CPU:
            raise ValueError(
                f"image tokens must be <= {MOST_TOKENS_ON_CPU} without a GPU, got {space.num_tokens} of {config['name']} at "
                f"{size}x{size}: take a smaller data.size, stage=tokenizer, or a machine with a GPU"
            )
        job.presets = presets
        for split in dataset.splits.values():
            check_text([caption.encode() for caption in split.captions])
        if (batch := config["budget"]["backbone"]["batch"]) > len(dataset.train):
            raise ValueError(f"budget.backbone.batch must be <= the {len(dataset.train)} training images, got {batch}")
        schemes: list[Any] = [job.scheme(preset, space) for preset in job.presets.values()]
        judged = shapes if config["stage"] == "all" and dataset.generation.labels is not None else []
        guidances = config["budget"]["evaluation"]["guidances"]
        longest = max(len(caption.encode()) for split in dataset.splits.values() for caption in split.captions)
        for scheme, preset in zip(schemes, job.presets.values(), strict=True):
            check_scheme(scheme, preset, guidances=guidances, shapes=judged, text=longest)
        _warn_of_base(job, (scheme.backbone for scheme in schemes), text=longest)
    return job


def _with_loss(job: Job, tokenizer: Tokenizer) -> Values:
    """The configuration with the sha256 of the weights in its loss; the job is told whose features the loss sees."""
    criterion = job.criterion(steps=1)
    if criterion is None:
        return job.config
    if not isinstance(tokenizer, nn.Module) or not any(p.requires_grad for p in tokenizer.parameters()):
        raise ValueError(f"loss needs a tokenizer with something to train, got {job.config['name']}")
    job.trained_on = tuple(criterion.trained_on)
    sha256 = getattr(criterion.perceptual, "weights_sha256", None)
    node = job.config["loss"]
    told = {"perceptual": {**node["perceptual"], "weights_sha256": sha256}} if sha256 else {}
    return {**job.config, "loss": {**node, **told}}


def _trained_presets(config: Values, tokenizer: Tokenizer) -> dict[str, Values]:
    """The presets that the stage trains. `bits` needs a likelihood of the tokens: native alone, of no trained latents."""
    if config["stage"] == "tokenizer" or (config["stage"] == "bits" and _trained_latents(tokenizer)):
        return {}
    found = presets_of(config["generation"], codebooks=len(tokenizer.codebook_sizes))
    return {"native": found["native"]} if config["stage"] == "bits" and "native" in found else found


def _trained_latents(tokenizer: Tokenizer) -> bool:
    """Whether the tokens are continuous and come out of a trained network: their rate is that of a fitted density."""
    return not tokenizer.codebook_sizes and isinstance(tokenizer, nn.Module)


def _warn_of_base(job: Job, backbones: Iterable[Backbone], *, text: int) -> None:
    """Says on stderr where RoPE's base is too small for a row of so much text and an image of a backbone's grid."""
    for warning in sorted({backbone.base_warning(text=text) or "" for backbone in backbones} - {""}):
        print(f"warning: {job.config['name']} s{job.config['seed']}: {warning}", file=sys.stderr, flush=True)


def data_key(config: Values) -> str:
    """Which images a run sees, as a string that `load_dataset` takes."""
    return json.dumps([config["data"], config["budget"]["images"]], sort_keys=True)


@lru_cache(maxsize=1)
def load_dataset(key: str) -> tuple[Dataset, dict[str, str]]:
    """The dataset, cut to the budget's most images a split, and the fingerprint of each split; the last one is kept."""
    node, limits = json.loads(key)
    dataset: Dataset = build.construct(node)
    limited = {}
    for name, split in dataset.splits.items():
        most = limits["test" if name == "generation" else name]
        limited[name] = split if most is None else subset(split, some(len(split), most).sort().values)
    dataset = replace(dataset, **limited)  # type: ignore[arg-type]
    return dataset, {name: fingerprint(split) for name, split in dataset.splits.items()}


def checkout(cache: Path) -> str:
    """A random name for the place that runs are made in, kept in its cache: records from elsewhere hold other timings."""
    path = cache / "checkout"
    if not path.exists():
        with held(path):  # two that start at once must agree
            if not path.exists():
                write_whole(path, uuid.uuid4().hex[:12].encode())
    return path.read_text()


def recorded(job: Job) -> Path | None:
    """The record of this very run, if it was made here, or anywhere with reuse=anywhere."""
    found = find_record(job.folder, job.config["name"], job.config["seed"], job.hash)
    if found is None:
        return None
    own = found.environment.get("checkout") == checkout(Path(job.config["cache_dir"]))
    return job.folder / found.file_name if own or job.config["reuse"] == REUSE[1] else None


def failed_since(job: Job, since: float) -> str | None:
    """Why this very run failed, if it did since a time in seconds of the epoch, here or in another process."""
    path = job.folder / record_file_name(job.config["name"], job.config["seed"], job.hash, failed=True)
    if not path.exists() or path.stat().st_mtime < since:
        return None
    return next((record.error for record in read_records(path)), None)
