"""A trained tokenizer as a folder that can be handed on: `tokenizer.json` says what it is, `tokenizer.safetensors` holds
its weights and the integer table of each codebook. Neither can name code to run but the tokenizers and quantizers here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from tokbench import build
from tokbench.information.coding import Integers
from tokbench.interfaces import Tokenizer
from tokbench.records import write_whole
from tokbench.tokenizers.autoencoder import Autoencoder

FORMAT = 1
CONFIG, WEIGHTS = "tokenizer.json", "tokenizer.safetensors"
SHELF = build.ROOT / ".cache" / "codec"  # where exported tokenizers are looked for by their hash
ALLOWED = ("tokbench.tokenizers.", "tokbench.quantizers.")
KEYS = {"format", "name", "size", "data", "tokenizer", "quantizer", "weights_sha256"}


@dataclass(frozen=True, eq=False)
class Exported:
    """A trained tokenizer in eval mode, with what coding its tokens needs."""

    tokenizer: Autoencoder
    tables: tuple[Integers, ...]  # (V_k,) of each codebook
    hash: str  # 16 hexadecimal digits over both files
    name: str


def check_codable(tokenizer: Tokenizer | Autoencoder, *, size: int) -> None:
    """ValueError unless the tokenizer has codes, on a grid that grows with the image."""
    if not tokenizer.codebook_sizes:
        raise ValueError("the codec writes codes, but this tokenizer is continuous: it has none")
    if not isinstance(tokenizer, Autoencoder) or len(tokenizer.shape(size, size)) != 2:
        raise ValueError("the codec needs an autoencoder whose tokens are a grid that grows with the image")


def write_exported(
    config: Mapping[str, Any], tokenizer: Any, tables: Sequence[Integers], *, size: int, folder: Path | None
) -> Path:
    """The folder of a tokenizer trained as the run's `config` says on square images of `size`; None: SHELF / its hash."""
    tensors = {f"weights.{k}": v.detach().cpu().contiguous().clone() for k, v in tokenizer.state_dict().items()}
    tensors |= {f"tables.{k}": torch.from_numpy(table) for k, table in enumerate(tables)}
    weights = save(tensors)
    described = {
        "format": FORMAT,
        "name": f"{config['name']}-s{config['seed']}",
        "size": size,
        "data": config["choices"]["data"],
        "tokenizer": config["tokenizer"],
        "quantizer": config["quantizer"],
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = (json.dumps(described, indent=1, sort_keys=True) + "\n").encode()
    folder = folder or SHELF / _hash(text)
    write_whole(folder / WEIGHTS, weights)
    write_whole(folder / CONFIG, text)
    return folder


def read_exported(folder: Path) -> Exported:
    """The tokenizer of a folder; ValueError names what is missing, altered or not allowed in it."""
    try:
        text, weights = (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder} holds no exported tokenizer: {error.strerror} at {error.filename}") from None
    try:
        described = json.loads(text)
        if not isinstance(described, dict) or described.keys() != KEYS or described["format"] != FORMAT:
            raise ValueError(f"it must be an object of format {FORMAT} with the keys {', '.join(sorted(KEYS))}")
        if hashlib.sha256(weights).hexdigest() != described["weights_sha256"]:
            raise ValueError(f"{WEIGHTS} is not the file that it names")
        tokenizer, tables = _built(described, load(weights))
    except (ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        raise ValueError(f"{folder / CONFIG}: {' '.join(str(error).split())}") from None
    return Exported(tokenizer, tables, _hash(text), str(described["name"]))


def _hash(text: bytes) -> str:
    """16 hexadecimal digits over `tokenizer.json`, which holds the sha256 of the weights."""
    return hashlib.sha256(text).hexdigest()[:16]


def _built(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Autoencoder, tuple[Integers, ...]]:
    for target in _targets([described["tokenizer"], described["quantizer"]]):
        _check_target(target)
    tokenizer: Autoencoder = build.construct(described["tokenizer"], quantizer=build.construct(described["quantizer"]))
    check_codable(tokenizer, size=described["size"])
    tokenizer.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    tables = tuple(tensors[f"tables.{k}"].numpy().astype(np.int64) for k in range(len(tokenizer.codebook_sizes)))
    if [len(table) for table in tables] != list(tokenizer.codebook_sizes):
        raise ValueError(f"tables must have {tokenizer.codebook_sizes} codes, got {[len(table) for table in tables]}")
    return tokenizer.eval().requires_grad_(False), tables


def _targets(node: Any) -> Iterator[Any]:
    """Every `_target_` anywhere in JSON-like values."""
    if isinstance(node, Mapping):
        yield from [node["_target_"]] if "_target_" in node else []
    for value in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        yield from _targets(value)


def _check_target(target: Any) -> None:
    """ValueError unless the target is a class that a tokenizer's or quantizer's module of this package defines."""
    module, _, name = str(target).rpartition(".")
    found = None
    if str(target).startswith(ALLOWED):
        with suppress(ImportError):
            found = getattr(importlib.import_module(module), name, None)
    if not isinstance(found, type) or found.__module__ != module:
        raise ValueError(f"_target_ must be a class of {' or '.join(f'{a}*' for a in ALLOWED)}, got {target!r}")
