"""Small made-up records and arrays for the tests of the report, and, run as a program, a look at their pages.

`python tests/report/report_factory.py FOLDER` writes a results folder with image-like arrays.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tokbench.metrics.standard import STANDARD
from tokbench.records import (
    SCHEMA_VERSION,
    DataInfo,
    Measure,
    RunRecord,
    parse_key,
    record_file_name,
    write_arrays,
    write_record,
)

SIDE = 32
DISCRETE = {"fsq": 1000, "vq": 1024, "vq_tuned": 1000}  # codes; any other name is continuous
PSNR = {"fsq": 23.55, "vq": 20.5, "vq_tuned": 24.04}
_NUMBERS = {
    "reconstruction/ssim": 0.8123,
    "reconstruction/psnr_ge_40": 0.0125,
    "reconstruction/fd_classifier": 1.234,
    "bits/tokens": 64.0,
    "bits/dim": 4.0,
    "bits/relative_quantization_error": 0.0456,
    "bits/norm_z": 2.345,
    "bits/norm_z_q": 2.1,
    "cost/tokenizer_parameters": 1_234_567.0,
    "cost/tokenizer_training_flops": 3.21e13,
    "cost/encode_seconds": 0.00123,
    "cost/decode_seconds": 0.00456,
    "training/flattened": 1.0,
    "training/best_step": 580.0,
}
_BLOCK = {
    "generation/fd_classifier": 12.3,
    "generation/fd_random64": None,
    "generation/kid_random64": 0.0234,
    "generation/sliced_wasserstein": 0.456,
    "generation/nearest_train_distance": 34.5,
    "generation/class_agreement": 0.42,
    "guided/fd_classifier": 10.1,
    "guided/guidance": 2.0,
    "understanding/caption_accuracy": 0.61,
    "understanding/caption_bits_per_byte": 0.321,
    "cost/parameters": 4_700_000.0,
    "cost/training_flops": 5.6e14,
    "cost/generation_flops_analytic": 1.23e9,
    "cost/generation_flops_counted": 1.24e9,
    "cost/passes": 64.0,
    "cost/latency_seconds": 0.123,
    "cost/throughput_images_per_second": 45.6,
    "cost/peak_memory_bytes": 345e6,
    "training/flattened": 0.0,
    "training/best_step": 400.0,
}
_FLOORS = {"fd_classifier": 0.9, "kid_random64": 0.001, "sliced_wasserstein": 0.05}


SWEPT = (16, 64, 256, 1024, 4096)  # codebook sizes of a made-up sweep


def measure(key: str, value: float | None, reason: str = "n = 1,200 < 5,000", **more: Any) -> Measure:
    """A measure of the standard set, or one that it no longer has."""
    known = STANDARD.get(parse_key(key).standard)
    unit, protocol = (known.unit, known.protocol) if known else ("", "by an older definition")
    return Measure(value=value, unit=unit, protocol=protocol, reason=reason if value is None else None, **more)


def metrics(name: str, seed: int, stage: str = "all") -> dict[str, Measure]:
    """All measures of a made-up run."""
    found = {key: measure(key, value) for key, value in _NUMBERS.items()}
    found["reconstruction/psnr_db"] = measure(
        "reconstruction/psnr_db", PSNR.get(name, 26.0) + 0.03 * seed, n=24, spread=3.0
    )
    found |= _bits(name)
    for block in ("common", "native") if stage == "all" else ():
        found |= {f"{block}/{key}": _generated(key, value, seed) for key, value in _BLOCK.items()}
        bits = 478.4 if block == "native" and name in DISCRETE else None
        for key, scale in (("per_image", 1), ("per_pixel", SIDE**2)):
            key = f"{block}/bits/model_bits_{key}"
            found[key] = measure(key, None if bits is None else bits / scale, "continuous")
    found["baseline/real/reconstruction/psnr_db"] = measure("reconstruction/psnr_db", 100.0)
    found["baseline/mean_colour/reconstruction/psnr_db"] = measure("reconstruction/psnr_db", 14.2)
    found["baseline/real/generation/fd_classifier"] = measure("generation/fd_classifier", 0.0)
    found["baseline/replayed_train/generation/fd_classifier"] = measure("generation/fd_classifier", 0.8)
    found["baseline/colour_only/understanding/caption_accuracy"] = measure("understanding/caption_accuracy", 0.66)
    return found


def _bits(name: str) -> dict[str, Measure]:
    codes = DISCRETE.get(name)
    values = {
        "nominal_bits_per_image": 64 * np.log2(codes or 1),
        "marginal_bits_per_image": 60 * np.log2(codes or 1),
        "usage": 0.971,
        "usage_cap": 0.999,
        "perplexity": 0.8 * (codes or 1),
    }
    made = {f"bits/{k}": float(v) if codes else None for k, v in values.items()}
    made |= {f"reconstruction/psnr_lost_{k}_percent": 0.3 * k if codes else None for k in (1, 10)}
    return {key: measure(key, value, "continuous") for key, value in made.items()}


def _generated(key: str, value: float | None, seed: int) -> Measure:
    floor = _FLOORS.get(parse_key(f"common/{key}").short)
    return measure(
        f"common/{key}", None if value is None else value * (1 if floor is None else 1 + seed / 100), floor=floor
    )


def images(count: int = 16, side: int = SIDE) -> np.ndarray:
    """(count, 3, side, side) uint8 discs on gradients: smooth, with edges."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    made = []
    for _ in range(count):
        ground, ink = rng.uniform(0, 255, (2, 3))
        cx, cy, radius, slope = rng.uniform(0.2, 0.8, 4)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < (radius / 2) ** 2
        picture = ground[:, None, None] * (0.6 + 0.4 * slope * x + 0.4 * (1 - slope) * y)
        made.append(np.where(disc, ink[:, None, None], picture))
    return np.clip(made, 0, 255).astype(np.uint8)


def arrays(name: str, seed: int, stage: str = "all") -> dict[str, np.ndarray]:
    """What a run keeps beside its record."""
    rng = np.random.default_rng(sum(map(ord, name)) + seed)
    originals = images()
    base = np.random.default_rng(1).normal(0, 3, 24)  # the same images are hard for all
    noise = 255 / 10 ** (PSNR.get(name, 26.0) / 20)
    noisy = np.clip(originals + rng.normal(0, noise, originals.shape), 0, 255).astype(np.uint8)
    kept = {
        "psnr_db": PSNR.get(name, 26.0) + 0.03 * seed + base - base.mean() + rng.normal(0, 0.1, 24),
        "ssim": 0.81 + rng.normal(0, 0.01, 24),
        "groups": np.arange(24) // 4,
        "originals": originals,
        "reconstructions": noisy,
        "loss_tokenizer": np.stack([np.arange(10.0), np.exp(-np.arange(10.0))], axis=1),
    }
    if stage == "all":
        kept |= {f"samples_{block}": np.roll(noisy, shift, axis=0) for shift, block in ((1, "common"), (2, "native"))}
        kept["sample_captions"] = np.array([f"a photograph of thing {i}" for i in range(16)])
    return kept


def record(name: str = "fsq", seed: int = 0, **changes: Any) -> RunRecord:
    """A complete record, any field of which can be given."""
    stage = changes.pop("stage", "all")
    ranked, size = changes.pop("ranked", False), changes.pop("size", None)
    data = {"name": "cifar10" if ranked else "photos32"} | ({} if size is None else {"size": size})
    values: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "status": "ok",
        "stage": stage,
        "seed": seed,
        "budget": "cpu",
        "hash": f"{sum(map(ord, name)) * 1000 + 100 * ranked + seed:08x}",
        "config": {"seed": seed, "stage": stage, "quantizer": {"levels": [8, 5, 5, 5]}, "data": data},
        "data": DataInfo(
            name=str(data["name"]),
            ranked=ranked,
            fingerprints={"train": "11" * 32, "test": "22" * 32},
            sizes={"train": 20000, "test": 24},
            skipped=0,
        ),
        "blocks": {"common": "transfusion", "native": "chameleon" if name in DISCRETE else "transfusion"},
        "metrics": {} if changes.get("status") == "failed" else metrics(name, seed, stage),
        "versions": {"metrics.images": 1, f"quantizers.{name}": 1},
        "environment": {"device": "Some CPU, 2 cores", "torch": "2.11.0", "threads": 1, "load_average": 0.1 + seed},
        "files": {},
        "created": "2025-01-02T03:04:05+00:00",
        "seconds": {"tokenizer": 45.0},
    }
    return RunRecord(**(values | ({"blocks": {}} if stage == "tokenizer" else {}) | changes))


def swept(name: str, codes: int, seed: int = 0, *, collapse: bool = False, **changes: Any) -> RunRecord:
    """The record of one V of a sweep over tokenizers alone; a collapsed one has fewer used bits from V = 256 on."""
    nominal = 64 * float(np.log2(codes))
    used = nominal * (0.9 if not collapse or codes < 256 else 0.9 - 0.14 * (np.log2(codes) - 7)) + seed
    quality = 15 + used / 70 + (sum(map(ord, name)) % 17) / 10 + 0.02 * seed
    values = {
        "reconstruction/psnr_db": quality,
        "reconstruction/ssim": 0.4 + used / 2000,
        "reconstruction/psnr_lost_1_percent": 0.02 * used / 64,
        "reconstruction/psnr_lost_10_percent": 0.15 * used / 64,
        "bits/nominal_bits_per_image": nominal,
        "bits/marginal_bits_per_image": used,
        "bits/perplexity": 2 ** (used / 64),
        "bits/usage_tokens": 64000.0,
    }
    kept = metrics("fsq", seed, "tokenizer") | {key: measure(key, float(value)) for key, value in values.items()}
    config = {"seed": seed, "stage": "tokenizer", "quantizer": {"codebook_size": codes}, "data": {"name": "cifar10"}}
    made = f"{sum(map(ord, name)) * 100_000 + 10 * codes + seed:08x}"
    return record(
        name,
        seed,
        **({"stage": "tokenizer", "ranked": True, "metrics": kept, "config": config, "hash": made} | changes),
    )


def swept_arrays(record: RunRecord, count: int = 24) -> dict[str, np.ndarray]:
    """What such a run keeps, with the values of so many images."""
    rng = np.random.default_rng(int(record.hash, 16))
    quality, nominal, used = (
        record.metrics[key].value or 0.0
        for key in ("reconstruction/psnr_db", "bits/nominal_bits_per_image", "bits/marginal_bits_per_image")
    )
    base = np.random.default_rng(1).normal(0, 3, count)
    tokens = 2 ** np.arange(17)
    steps = np.linspace(3, 600, 200)
    return arrays("fsq", record.seed, "tokenizer") | {
        "psnr_db": (quality + base - base.mean() + rng.normal(0, 0.5, count)).astype(np.float32),
        "ssim": (0.6 + rng.normal(0, 0.02, count)).astype(np.float32),
        "groups": np.arange(count),
        "rarefaction_tokens": tokens,
        "rarefaction_usage": (-np.expm1(-tokens / 2 ** (used / 64)) * used / nominal).astype(np.float32),
        "loss_tokenizer": np.stack([steps, 10 / steps + rng.normal(0.03, 0.001, 200)], axis=1).astype(np.float32),
    }


def file(
    record: RunRecord, results: Path, *, with_arrays: bool = True, kept: dict[str, np.ndarray] | None = None
) -> Path:
    """The path of the record, written under results/runs with the arrays `kept`, or else made-up ones."""
    runs = results / "runs"
    if with_arrays and record.status == "ok":
        name = record_file_name(record.name, record.seed, record.hash).replace(".json", ".npz")
        kept = arrays(record.name, record.seed, record.stage) if kept is None else kept
        record = record.model_copy(update={"files": {name: write_arrays(runs / name, kept)}})
    return write_record(record, runs)


def failure(name: str = "lfq", seed: int = 0, **changes: Any) -> RunRecord:
    return record(name, seed, status="failed", error="Diverged: loss term codebook is nan at step 12", **changes)


if __name__ == "__main__":
    from tokbench.report.__main__ import main

    folder = Path(sys.argv[1])
    for ranked in (False, True):
        for made in ("fsq", "vq", "vq_tuned", "continuous_4"):
            for number in range(3 if ranked else 2):
                file(record(made, number, ranked=ranked), folder)
    file(record("patches", 0, stage="tokenizer"), folder)
    changed = {"seed": 0, "stage": "all", "quantizer": {"levels": [4, 4]}, "data": {"name": "photos32"}}
    file(record("fsq", 0, config=changed, hash="00000abc"), folder)
    file(failure(), folder)
    sys.exit(main(["--results", str(folder)]))
