"""Every preset of conf/generation on a tokenizer that it fits: built, trained two steps, sampled; and what does not fit."""

import math

import pytest
import torch

from tokbench import build, job
from tokbench.backbone.sequence import encode_text
from tokbench.evaluate.tokens import encode_split, token_space
from tokbench.stages import trained_scheme

FITTING = {
    "both": "fsq",
    "both_factorised": "fsq",
    "causal_diffusion": "fsq",
    "causal_factorised": "rvq",
    "chameleon": "vq_tuned",
    "flow_matching": "continuous_8",
    "givt": "continuous_4",
    "givt_masked": "prequantized",
    "l2_control": "continuous_4",
    "mar": "continuous_4",
    "mar_categorical": "vq_tuned",
    "pixel_ar": "pixels",
    "showo": "fsq",
    "su_patches": "patches",
    "transfusion": "rvq",
}
WEIGHTS = {"text", "image"}


def prepared(tmp_path, *words):
    return job.prepare(build.compose([*words, "data.size=16", "budget=smoke", f"cache_dir={tmp_path}"]))


def test_every_preset_has_a_tokenizer_here():
    assert {path.stem for path in (build.ROOT / "conf/generation").glob("*.yaml")} == set(FITTING)


@pytest.mark.parametrize("preset", FITTING)
def test_a_preset_trains_two_steps_and_samples(preset, tmp_path):
    ready = prepared(tmp_path, f"generation={preset}", f"quantizer={FITTING[preset]}")
    tokenizer = ready.tokenizer()
    if isinstance(tokenizer, torch.nn.Module):
        tokenizer.eval()
    splits = {n: job.subset(ready.dataset.splits[n], torch.arange(8)) for n in ("train", "validation")}
    tables = {n: encode_split(tokenizer, split, batch=8, device=ready.device) for n, split in splits.items()}
    space = token_space(tokenizer, tables["train"], size=16)
    for block, chosen in ready.presets.items():
        scheme, training = trained_scheme(ready, chosen, space, tables)
        assert len(training.losses) == 2
        assert all(map(math.isfinite, training.losses))
        assert set(scheme.loss_weights) >= WEIGHTS, block
        drawn = scheme.sample(*encode_text(["a cat", ""]), guidance=1.5, generator=torch.Generator().manual_seed(0))
        assert drawn.z_q.shape == (2, space.num_tokens, space.dim)
        assert (drawn.indices is None) == (not space.codebook_sizes)
        nats = scheme.nll(tables["train"].batch(space, torch.arange(3)))
        assert (nats is None) == (scheme.likelihood is None)
        assert scheme.caption_nll(tables["train"].batch(space, torch.arange(3))).shape == (3,)


BRANCH = "+generation.scheme.branch={_target_:tokbench.generation.branches.%s,channels:8}"
VARIANTS = [
    ("+generation.scheme.patch=2", BRANCH % "UNet"),
    ("+generation.scheme.patch=2", BRANCH % "Wide"),
    ("+generation.scheme.noise_cap=0.5", "+generation.scheme.conditioning=adaln_zero"),
    ("+generation.scheme.image_attention=causal",),
]


@pytest.mark.parametrize("words", VARIANTS, ids=str)
def test_options_of_transfusion_come_from_the_command_line(words, tmp_path):
    ready = prepared(tmp_path, "generation=transfusion", "quantizer=continuous_4", *words)
    (chosen,) = ready.presets.values()
    space = job.space_of(ready.tokenizer(), torch.zeros(4), torch.ones(4), size=16)
    drawn = ready.scheme(chosen, space).sample(
        *encode_text(["a cat"]), guidance=1.5, generator=torch.Generator().manual_seed(0)
    )
    assert drawn.z_q.shape == (1, 16, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("generation=chameleon", "quantizer=continuous_4"),
            "head 'categorical' needs indices, but the tokenizer is cont",
        ),
        (
            ("generation=showo", "quantizer=rvq"),
            r"head 'categorical' reads one codebook, but the tokenizer has 2 \(32, 32\)",
        ),
        (
            ("generation=showo", "generation.scheme.rounds=17"),
            "rounds must be in 1..16, the tokenizer's image tokens, got 17",
        ),
        (("generation=transfusion", "generation.scheme.steps=0"), "steps must be >= 1, got 0"),
        (
            ("generation=chameleon", "generation.scheme.temperature=-1"),
            "temperature must be >= 0 with head Categorical",
        ),
        (
            ("generation=givt", "quantizer=continuous_4", "generation.scheme.temperature=0"),
            "temperature must be > 0 with head Mixture, got 0",
        ),
        (
            ("generation=chameleon", "generation.scheme.order=zigzag"),
            "order must be one of raster, column, spiral, random",
        ),
        (
            ("generation=transfusion", "+generation.scheme.patch=3"),
            r"patch must divide the tokenizer's grid, got patch 3 and",
        ),
        (("generation=mar", "generation.scheme.reveal=confident"), "needs a head with exact likelihood, got Diffusion"),
        (
            ("generation=transfusion", "generation.scheme.caption_dropout=0"),
            r"guidance must be 1 for a scheme trained with caption_dropout = 0, got 1.5",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_that_names_both_sides(words, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        prepared(tmp_path, *words)
    assert "\n" not in str(caught.value)
