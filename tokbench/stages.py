"""The trained parts of a run: its tokenizer (kept by hash, so that a sweep trains each once) and its generation schemes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from tokbench import build
from tokbench.evaluate.code_length import fit_code_length, judged_images, reconstructed
from tokbench.evaluate.costs import training_step_flops
from tokbench.evaluate.tokens import TokenTable, encode_split, token_space
from tokbench.identity import CODED, Values, rooms_of
from tokbench.information.lossless import CodeLength
from tokbench.interfaces import Scheme, TokenBatch, Tokenizer, TokenSpace
from tokbench.job import Job, prepare
from tokbench.locks import held
from tokbench.memory import trained_in_memory
from tokbench.metrics.features import weights_sha256
from tokbench.metrics.images import to_float
from tokbench.processes import in_processes
from tokbench.quantizers.ranks import num_ranks, rank
from tokbench.records import remove_partial, write_whole
from tokbench.train import Training, fit

VERSION = 1
Compare = Callable[[Tokenizer, Tensor, Tensor], dict[str, Tensor]]
DISTANCES = ("reconstruction", "perceptual")  # terms that the validation split is judged by
OTHER_RANK = 1_000_003  # between the seeds of the noise that ranks draw


def squared_error(tokenizer: Tokenizer, reconstruction: Tensor, images: Tensor) -> dict[str, Tensor]:
    """The default of what a reconstruction is compared by."""
    return {"reconstruction": nn.functional.mse_loss(reconstruction, images)}


def tokenizer_loss(tokenizer: Tokenizer, images: Tensor, compare: Compare = squared_error) -> dict[str, Tensor]:
    """Weighted scalar terms on (B, 3, H, W) images in [-1, 1]: those of the reconstruction, and the quantizer's losses."""
    quantized = tokenizer.encode(images)
    terms = compare(tokenizer, tokenizer.decode(quantized.z_q).float(), images)
    weights = tokenizer.loss_weights
    return terms | {k: weights[k] * v for k, v in quantized.losses.items()}


def trainable(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer has parameters to train."""
    return isinstance(tokenizer, nn.Module) and any(p.requires_grad for p in tokenizer.parameters())


def trained_tokenizer(job: Job) -> tuple[Tokenizer, Training | None]:
    """The tokenizer, trained and frozen, in eval mode, and its training; from the cache where these very weights are kept."""
    tokenizer = job.tokenizer()
    if not isinstance(tokenizer, nn.Module):
        return tokenizer, None
    if not trainable(tokenizer):
        return tokenizer.eval(), None
    path = tokenizer_path(job)
    model: Any = tokenizer
    with held(path):  # one process trains it, the others wait and read
        remove_partial(path.parent, path.name)
        if path.exists() and not job.config["force"]:
            kept = torch.load(path, map_location=job.device, weights_only=True)
            model.load_state_dict(kept["weights"])
            training = Training(**kept["training"])
        else:
            size = job.config["budget"]["tokenizer"]["batch"]
            forget(job, path.stem, when=job.config["force"])
            model, training = trained_in_memory(job.tokenizer, partial(_fit_tokenizer, job), batch=size)
            save(path, {"weights": model.state_dict(), "training": vars(training)})
            forget(job, path.stem)
    return model.eval().requires_grad_(False), training


def tokenizer_path(job: Job) -> Path:
    """Where the weights of the job's tokenizer are kept, under a hash of all that made them."""
    config, budget = job.config, job.config["budget"]
    parts = [config[k] for k in ("tokenizer", "quantizer", "seed")] + [budget["tokenizer"], budget["precision"]]
    parts += [build.hashed({"loss": config["loss"]})] if config.get("loss") else []
    parts += [config["devices"]] if config["devices"] > 1 else []
    used = build.versions([config[k] for k in ("tokenizer", "quantizer")] + [config.get("loss")], rooms_of(config))
    return Path(config["cache_dir"]) / "tokenizers" / f"{build.digest(parts, used, job.fingerprints)}.pt"


def code_length(job: Job, tokenizer: Tokenizer) -> CodeLength:
    """Bits of what the job's trained tokenizer leaves open, which no generator changes.

    From the cache where it was fitted before, to these weights of a tokenizer that makes the same of the judged images.
    """
    budget, used = job.config["budget"], build.versions([], CODED)
    options = {"steps": budget["judge"]["steps"], "batch": budget["evaluation"]["batch"]}
    again = reconstructed(tokenizer, judged_images(job.dataset), batch=options["batch"], device=job.device)
    content = [hashlib.sha256(again.numpy().tobytes()).hexdigest()]
    content += [weights_sha256(tokenizer)] if isinstance(tokenizer, nn.Module) else []
    name = build.digest(content, job.device.type, job.fingerprints, options, used)
    path = Path(job.config["cache_dir"]) / "code_lengths" / f"{name}.pt"
    with held(path):
        remove_partial(path.parent, path.name)
        if path.exists() and not job.config["force"]:
            return CodeLength(**torch.load(path, weights_only=True))
        found = fit_code_length(tokenizer, job.dataset, again, device=job.device, **options)
        save(path, vars(found))
        return found


def scheme_name(job: Job, preset: Values) -> str:
    """The name under which the training of a scheme keeps its state, until the run is recorded."""
    return f"{Path(job.file_name).stem}-{preset['name']}"


def forget(job: Job, name: str, *, when: bool = True) -> None:
    """Remove what trainings of that name have kept to go on from."""
    folder = Path(job.config["cache_dir"]) / "checkpoints"
    for path in folder.glob(f"{name}.*") if when else ():
        path.unlink(missing_ok=True)
    remove_partial(folder, f"{name}.")


def _fit_tokenizer(job: Job, tokenizer: Any, micro_batches: int) -> Training:
    options = dict(job.config["budget"]["tokenizer"])
    train, validation = (job.dataset.splits[n].images.to(job.device) for n in ("train", "validation"))
    size = options["batch"]

    def draw(generator: Generator) -> Tensor:
        rows = torch.randint(len(train), (size,), generator=generator)
        return to_float(train[rows.to(train.device)])

    criterion = job.criterion(steps=options["steps"])
    compared, judged = ((), ()) if criterion is None else ((criterion,), (criterion.distances,))
    fitting = _fit_options(job, "tokenizer", tokenizer_path(job).stem, micro_batches)
    if criterion is not None and criterion.adversary is not None:
        if job.config["devices"] > 1:
            raise ValueError(f"loss.adversary trains on one device, got devices={job.config['devices']}")
        # L_rec says nothing of an adversary's gain: the last weights are kept. Its own state is in no checkpoint.
        fitting |= {"validations": 1, "checkpoint": None}

    def loss(images: Tensor) -> dict[str, Tensor]:
        return tokenizer_loss(tokenizer, images, *compared)

    def held_out() -> float:
        errors = []
        for part in validation.split(256):
            terms = tokenizer_loss(tokenizer, to_float(part), *judged)
            errors.append(sum(terms[name] for name in DISTANCES if name in terms) * len(part))
        return float(sum(errors)) / len(validation)

    if job.config["devices"] > 1 and num_ranks() == 1:
        in_processes(_tokenizer_rank, job.config, micro_batches, count=job.config["devices"])  # fit finds it done
    training = fit(tokenizer, loss, draw, validation=held_out, **fitting)
    if any(not getattr(module, "initialized", True) for module in tokenizer.modules()):
        raise ValueError(
            f"init=kmeans needs as many tokens as codes, {tokenizer.codebook_sizes}, "
            f"and {options['steps']} steps of {size} images did not hold them"
        )
    return training


def _tokenizer_rank(config: Values, micro_batches: int) -> None:
    """One process of the training of a tokenizer."""
    job = prepare(config)
    _fit_tokenizer(job, job.tokenizer(), micro_batches)


def _scheme_rank(config: Values, name: str, micro_batches: int) -> None:
    """One process of the training of the scheme of that preset, on the tokens of the tokenizer that is kept."""
    job = prepare({**config, "force": False})
    tokenizer, _ = trained_tokenizer(job)
    space, tables = token_tables(job, tokenizer, ("train", "validation"))
    preset = next(preset for preset in job.presets.values() if preset["name"] == name)
    _fit_scheme(job, preset, space, tables, job.scheme(preset, space), micro_batches)


def token_tables(job: Job, tokenizer: Tokenizer, splits: Sequence[str]) -> tuple[TokenSpace, dict[str, TokenTable]]:
    """The tokens of those splits, the training split among them, and the space they lie in."""
    batch, found = job.config["budget"]["evaluation"]["batch"], job.dataset.splits
    tables = {name: encode_split(tokenizer, found[name], batch=batch, device=job.device) for name in splits}
    return token_space(tokenizer, tables["train"], size=job.dataset.train.images.shape[-1]), tables


def trained_scheme(
    job: Job, preset: Values, space: TokenSpace, tables: Mapping[str, TokenTable]
) -> tuple[Scheme, Training]:
    """A scheme trained on the tokens of the training split, in eval mode, and its training."""
    forget(job, scheme_name(job, preset), when=job.config["force"])
    train = partial(_fit_scheme, job, preset, space, tables)
    return trained_in_memory(partial(job.scheme, preset, space), train, batch=job.config["budget"]["backbone"]["batch"])


def _fit_scheme(
    job: Job,
    preset: Values,
    space: TokenSpace,
    tables: Mapping[str, TokenTable],
    scheme: Any,
    micro_batches: int,
) -> Training:
    size, seed = job.config["budget"]["backbone"]["batch"], job.config["seed"]
    noise = torch.Generator(job.device).manual_seed(seed + 1 + OTHER_RANK * rank())
    weights = scheme.loss_weights

    def weighted(batch: Any, generator: Generator) -> dict[str, Tensor]:
        return {k: weights[k] * v for k, v in scheme.loss(batch, generator).items()}

    def held_out() -> float:
        generator = torch.Generator(job.device).manual_seed(0)
        parts = torch.arange(len(tables["validation"])).split(size)
        losses = [sum(weighted(tables["validation"].batch(space, p), generator).values()) * len(p) for p in parts]
        return float(sum(losses)) / len(tables["validation"])

    if job.config["devices"] > 1 and num_ranks() == 1:
        in_processes(_scheme_rank, job.config, preset["name"], micro_batches, count=job.config["devices"])
    return fit(
        scheme,
        lambda batch: weighted(batch, noise),
        lambda generator: tables["train"].draw(space, size, generator),
        validation=held_out,
        generators=(noise,),
        **_fit_options(job, "backbone", scheme_name(job, preset), micro_batches)
        | {"steps": backbone_steps(job, scheme, tables["train"].batch(space, torch.arange(size)))},
    )


def backbone_steps(job: Job, scheme: Scheme, batch: TokenBatch) -> int:
    """The budget's steps; where it has `training_flops`, as many as those pay for at what one step takes on `batch`."""
    budget = job.config["budget"]["backbone"]
    if "training_flops" not in budget:
        return int(budget["steps"])
    return max(round(budget["training_flops"] / training_step_flops(scheme, batch)), 1)


def _fit_options(job: Job, part: str, checkpoint: str, micro_batches: int) -> dict[str, Any]:
    """How a part of the run is trained; what it keeps to go on from bears the name `checkpoint`."""
    budget, config = job.config["budget"], job.config
    options = {name: budget[part][name] for name in ("steps", "lr", "weight_decay", "clip")}
    options |= {"seed": config["seed"], "precision": budget["precision"], "name": part, "strategy": config["strategy"]}
    options["logger"] = job.logger if config["devices"] == 1 else None
    path = Path(config["cache_dir"]) / "checkpoints" / f"{checkpoint}.{micro_batches}.pt"
    return options | {"checkpoint": path, "micro_batches": micro_batches}


def save(path: Path, content: Any) -> None:
    """Keep what `torch.load` reads as data alone, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_whole(path, buffer.getvalue())
