"""The generation blocks of a run: in each, a scheme is trained on the tokenizer's tokens, judged and timed.

The VERSION of tokbench.execute stands for this module too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tokbench.data.kodak import read_kodak
from tokbench.evaluate.choices import evaluate_choices
from tokbench.evaluate.code_length import token_bits
from tokbench.evaluate.coded import evaluate_backbone_coding, evaluate_tables
from tokbench.evaluate.completions import complete, say
from tokbench.evaluate.costs import scheme_costs, training_proxy, training_step_flops
from tokbench.evaluate.few_steps import evaluate_few_steps
from tokbench.evaluate.generation import (
    Sizes,
    evaluate_generation,
    evaluate_likelihood,
    evaluate_text,
    evaluate_understanding,
)
from tokbench.evaluate.kodak import Photographs, evaluate_photograph_bits, evaluate_photographs, tokenize
from tokbench.evaluate.measures import Found, measured
from tokbench.evaluate.reference import Reference, some
from tokbench.evaluate.shapes import evaluate_shapes
from tokbench.evaluate.tokens import TokenTable
from tokbench.evaluate.training import curve, training_measures
from tokbench.generation.denoise import Denoise
from tokbench.generation.masked import Masked
from tokbench.identity import Values
from tokbench.interfaces import Scheme, Tokenizer, TokenSpace
from tokbench.job import Job
from tokbench.pairs import evaluate_pairs
from tokbench.stages import token_tables, trained_scheme
from tokbench.train import Training

PICTURED = 16
SPLITS = ("train", "validation", "generation")


def run_blocks(job: Job, tokenizer: Tokenizer, reference: Reference, found: Found) -> list[float]:
    """The cores that other processes used while each block was timed; its measures and arrays are added to `found`.

    A block that repeats another's preset repeats its numbers.
    """
    with job.step("encode"):
        space, tables = token_tables(job, tokenizer, SPLITS)
        found.add(evaluate_tables(space, tables["train"], tables["generation"]))
    photographs = _photographs(job, tokenizer, space, tables["train"], found) if "rd" in job.config else None
    others: list[float] = []
    done: dict[str, str] = {}
    for block, preset in job.presets.items():
        if preset["name"] in done:
            _repeat(found, done[preset["name"]], block)
            continue
        with job.step(f"train {preset['name']}"):
            scheme, training = trained_scheme(job, preset, space, tables)
        made = Block(job, block, preset, tokenizer, space, tables, reference, photographs, scheme, training, found)
        others += made.judge()
        done[preset["name"]] = block
    rows = some(len(job.dataset.generation), PICTURED)
    found.add(sample_captions=np.array([job.dataset.generation.captions[i] for i in rows.tolist()]))
    return others


def _photographs(job: Job, tokenizer: Tokenizer, space: TokenSpace, train: TokenTable, found: Found) -> Photographs:
    batch, size = job.config["budget"]["evaluation"]["batch"], job.dataset.train.images.shape[-1]
    with job.step("photographs"):
        tokens = tokenize(tokenizer, read_kodak(job.config["rd"]["root"]), size=size, batch=batch, device=job.device)
        measures, vectors = evaluate_photographs(tokenizer, tokens, space, train, batch=batch)
    found.add(measures, **vectors)
    return tokens


def _repeat(found: Found, source: str, block: str) -> None:
    found.add({block + k[len(source) :]: v for k, v in found.metrics.items() if k.startswith(f"{source}/")})
    found.add(**{k.replace(source, block): v for k, v in found.arrays.items() if k.endswith(f"_{source}")})


@dataclass
class Block:
    """One scheme, trained on one tokenizer's tokens; what it is found to do is filed in `found` under `name`."""

    job: Job
    name: str
    preset: Values
    tokenizer: Tokenizer
    space: TokenSpace
    tables: Mapping[str, TokenTable]
    reference: Reference
    photographs: Photographs | None
    scheme: Scheme
    training: Training
    found: Found

    @cached_property
    def sizes(self) -> Sizes:
        evaluation = self.job.config["budget"]["evaluation"]
        names = ("samples", "tuning_samples", "understanding", "batch")
        return Sizes(**{n: evaluation[n] for n in names}, guidances=tuple(evaluation["guidances"]))

    def judge(self) -> list[float]:
        """The cores that other processes used while it was timed; [] where the stage times nothing."""
        job, key = self.job, f"{self.name}/training/steps"
        self.found.add(training_measures(f"{self.name}/", self.training))
        self.found.add({key: measured(key, len(self.training.losses))}, **{f"loss_{self.name}": curve(self.training)})
        with job.step(f"judge {self.preset['name']}"):
            self._bits()
            if job.config["stage"] == "bits":
                return []
            self._understanding()
            self._samples()
        with job.step(f"cost of {self.preset['name']}"):
            others = self._costs()
        if job.config.get("pairs"):
            with job.step(f"pairs of {self.preset['name']}"):  # last: it trains the scheme on
                self.found.add(evaluate_pairs(self.name, job, self.scheme, self.tokenizer, self.space))
        return [others]

    def _bits(self) -> None:
        images, held_out = self.job.dataset.train.images, self.tables["generation"]
        known = self.name, self.scheme, self.space
        pixels = images.shape[-1] * images.shape[-2]
        measures, by_position = evaluate_likelihood(*known, held_out, pixels=pixels, sizes=self.sizes)
        self.found.add(measures, **{f"nll_by_position_{self.name}": by_position})
        self.found.add(evaluate_backbone_coding(*known, held_out))
        if self.photographs is not None:
            measures, vectors = evaluate_photograph_bits(*known, self.photographs, batch=self.sizes.batch)
            self.found.add(measures, **vectors)
        bits = token_bits(self.scheme, self.space, held_out, batch=self.sizes.batch)
        self.found.add(**{f"token_bits_{self.name}": bits})

    def _understanding(self) -> None:
        dataset, held_out = self.job.dataset, self.tables["generation"]
        known = self.name, self.scheme, self.space, held_out
        self.found.add(evaluate_text(*known, self.sizes))
        self.found.add(evaluate_understanding(*known, dataset.generation, dataset.class_names, self.sizes))
        if dataset.generation.truth is not None:
            images, batch = self.sizes.understanding, self.sizes.batch
            self.found.add(evaluate_choices(*known, dataset.generation, images=images, batch=batch))

    def _samples(self) -> None:
        job, generation = self.job, self.job.dataset.generation
        known = self.name, self.scheme, self.tokenizer
        options = {"seed": job.config["seed"], "device": job.device}
        measures, samples = evaluate_generation(*known, self.reference, self.sizes, **options)
        self.found.add(measures, **{f"samples_{self.name}": samples[:PICTURED]})
        if job.config.get("shapes"):
            images, batch = self.sizes.understanding, self.sizes.batch
            self.found.add(evaluate_shapes(*known, self.space, generation, images=images, batch=batch))
        self._completions()
        if job.config.get("few_steps"):
            guidance = self.found.metrics[f"{self.name}/guided/guidance"].value or 1.0
            largest = job.config["budget"]["evaluation"]["throughput_batch"]
            options |= {"most": job.config["few_steps"], "guidance": guidance, "largest": largest}
            self.found.add(evaluate_few_steps(*known, self.reference, self.sizes, **options))

    def _completions(self) -> None:
        """Pictures: what free runs say, and the other halves of images where the scheme can paint a part."""
        job, table = self.job, self.tables["generation"]
        seed, size = job.config["seed"], job.dataset.train.images.shape[-1]
        images, words = say(self.scheme, self.tokenizer, seed=seed, size=size, device=job.device)
        self.found.add(**{f"free_{self.name}": images})
        self.found.add(**{f"free_words_{self.name}": np.array(words)})
        if isinstance(self.scheme, Masked | Denoise):
            halves = complete(self.scheme, self.tokenizer, self.space, table, seed=seed, count=PICTURED)
            originals = job.dataset.generation.images[some(len(table), PICTURED)]
            self.found.add(completion_originals=originals, **{f"completed_{self.name}": halves})

    def _costs(self) -> float:
        job, budget, train = self.job, self.job.config["budget"], self.tables["train"]
        steps = len(self.training.losses)
        batch = train.batch(self.space, some(len(train), budget["backbone"]["batch"]))
        measures, others = scheme_costs(
            self.name,
            self.scheme,
            self.tokenizer,
            self.space,
            caption=job.dataset.generation.captions[0],
            batch=budget["evaluation"]["throughput_batch"],
            training_flops=steps * training_step_flops(self.scheme, batch),
            device=job.device,
        )
        key = f"{self.name}/cost/training_flops_proxy"
        self.found.add({**measures, key: measured(key, steps * training_proxy(self.scheme, batch))})
        return others
