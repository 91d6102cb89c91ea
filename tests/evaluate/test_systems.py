"""Few steps, pairs of images, text alone, completions, and trainings of equal FLOPs."""

import math
from types import SimpleNamespace

import pytest
import torch

from tokbench import pairs, stages, timing
from tokbench.backbone.sequence import BOI, BOS, encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.diffusion import evaluations
from tokbench.evaluate.completions import complete, say
from tokbench.evaluate.costs import training_step_flops
from tokbench.evaluate.few_steps import evaluate_few_steps, taking, ways
from tokbench.evaluate.generation import Sizes, _text_nats
from tokbench.evaluate.reference import Reference
from tokbench.evaluate.tokens import encode_split, token_space
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.generation.masked import Masked
from tokbench.heads.regression import Regression
from tokbench.interfaces import Dataset, Split
from tokbench.metrics.standard import STANDARD
from tokbench.metrics.standard_systems import WAYS
from tokbench.tokenizers.patches import Patches

CPU, SIDE = torch.device("cpu"), 16
TOKENIZER = Patches(4)
ROWS = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}


def split(n=12, seed=0):
    images = torch.randint(256, (n, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Split(images, ("a", "bc", "") * (n // 3), torch.arange(n) % 3, torch.arange(n))


TABLE = encode_split(TOKENIZER, split(), batch=6, device=CPU)
SPACE = token_space(TOKENIZER, TABLE, size=SIDE)


def made(kind="denoise"):
    torch.manual_seed(0)
    backbone = Backbone(dim=48, width=32, depth=2, heads=2, grid=(4, 4), positions="rope_tv", base=100.0)
    head = Regression(width=32, dim=48)
    masked = {
        "rounds": 4,
        "ratio": "cosine",
        "reveal": "random",
        "confidence_noise": 0,
        "guidance_schedule": "constant",
    }
    return {
        "denoise": lambda: Denoise(SPACE, backbone, schedule="cosine", prediction="v", steps=3, sampler="ddim", **ROWS),
        "causal": lambda: Causal(SPACE, backbone, head, order="raster", temperature=1.0, **ROWS),
        "masked": lambda: Masked(SPACE, backbone, head, temperature=1.0, **masked, **ROWS),
    }[kind]()


def test_every_way_is_a_measure_and_makes_as_many_passes_as_it_says(monkeypatch):
    assert all(
        f"steps/{name}_{way}_{n}" in STANDARD
        for way, n in WAYS
        for name in ("fd_classifier", "latency_seconds", "best_batch_seconds")
    )
    assert ways(made("causal"), most=250) == []
    assert ways(made("masked"), most=250) == [("rounds", n) for n in (1, 2, 4, 8, 16)]
    scheme, passes = made(), []
    assert len(ways(scheme, most=250)) == 4 * 8
    assert max(count for _, count in ways(scheme, most=100)) == 100
    assert ways(made("masked"), most=4) == [("rounds", n) for n in (1, 2, 4)]
    extend = scheme.backbone.extend
    monkeypatch.setattr(scheme.backbone, "extend", lambda *a, **o: passes.append(1) or extend(*a, **o))
    for way, count in ways(scheme, most=4):
        with taking(scheme, way, count):
            scheme.sample(*encode_text(["a"]), guidance=1.0, generator=torch.Generator().manual_seed(0))
            assert scheme.evaluations == len(passes) == count - (way == "heun" and count % 2 == 0), (way, count)
        passes.clear()
    assert (scheme.steps, scheme.evaluations) == (3, evaluations("ddim", 3))


@pytest.mark.parametrize("busy", [False, True])
def test_times_over_steps_are_of_one_image_and_of_the_best_batch(busy, monkeypatch):
    def once(run):
        drawn = run()
        return 1.0 + 0.5 * len(drawn)  # of a batch half a second more an image: the largest is best

    monkeypatch.setattr(timing, "once", once)
    monkeypatch.setattr(timing, "quietly", lambda m: timing.Quiet(None if busy else m(), "busy", 0.0, 0.0, 1))
    sizes, known = (
        Sizes(samples=6, tuning_samples=6, understanding=6, batch=6, guidances=(1.0,)),
        ("native", made("masked")),
    )
    reference = Reference(Dataset("noise", True, (), *[split()] * 4), None, None)
    options = {"most": 2, "guidance": 1.0, "largest": 4, "seed": 0, "device": CPU}
    found = evaluate_few_steps(*known, TOKENIZER, reference, sizes, **options)
    named = {
        f"native/steps/{name}_rounds_{n}"
        for name in ("fd_classifier", "latency_seconds", "best_batch_seconds")
        for n in (1, 2)
    }
    assert found.keys() == named
    assert found["native/steps/latency_seconds_rounds_1"].value == (None if busy else 1.5)
    assert found["native/steps/best_batch_seconds_rounds_2"].value == (None if busy else 3.0 / 4)
    assert evaluate_few_steps("native", made("causal"), TOKENIZER, reference, sizes, **options) == {}


def test_one_square_changes_in_half_of_the_pairs_and_nothing_else():
    images, generator = split(42).images, torch.Generator().manual_seed(0)
    differs = torch.arange(42) % 2 == 0
    found = pairs.changed(images, differs, side=3, generator=generator)
    assert torch.equal(found[~differs], images[~differs])
    moved = (found != images).any(dim=1)[differs]
    for picture in moved:
        rows, columns = picture.nonzero().unbind(1)
        assert rows.max() - rows.min() <= 2
        assert columns.max() - columns.min() <= 2
        assert 6 <= len(rows) <= 9


def test_pairs_hold_both_images_their_truth_and_whether_tokens_tell():
    found = pairs.make_pairs(TOKENIZER, split(), side=3, seed=0, batch=5, device=CPU)
    assert found.differs.sum() == 6
    batch = found.batch(SPACE, torch.arange(12))
    assert batch.latents.shape == (12, 32, 48)
    assert torch.equal(batch.latents[:, :16], SPACE.standardize(TABLE.z_q))
    alike = (batch.latents[:, :16] == batch.latents[:, 16:]).flatten(1).all(dim=1)
    assert torch.equal(alike, ~found.differs)
    words = [bytes(t[:n].tolist()).decode() for t, n in zip(batch.text, batch.lengths, strict=True)]
    assert words == ["different" if d else "same" for d in found.differs]
    assert found.told_apart.all()
    blind = pairs.Pairs(found.first, found.first, found.differs)
    assert not blind.told_apart.any()


def test_a_scheme_is_trained_on_pairs_and_judged_on_others(monkeypatch):
    backbone = {"batch": 12, "lr": 3e-3, "weight_decay": 0.0, "clip": 1.0}
    budget = {"backbone": backbone, "evaluation": {"batch": 12, "understanding": 12}, "precision": "32-true"}
    splits = {name: split(seed=n) for n, name in enumerate(("train", "validation", "generation"))}
    config = {"pairs": {"steps": 3, "side": 3}, "seed": 0, "budget": budget}
    job = SimpleNamespace(config=config, device=CPU, dataset=SimpleNamespace(splits=splits))
    scheme = made()
    before = scheme.backbone.text_head.weight.clone()
    found = pairs.evaluate_pairs("common", job, scheme, TOKENIZER, SPACE)
    assert not torch.equal(scheme.backbone.text_head.weight, before)
    accuracy = found["common/understanding/same_different_accuracy"]
    assert accuracy.n == 12
    assert 0 <= accuracy.value <= 1
    assert found["common/understanding/pairs_told_apart_by_tokens"].value == 1
    monkeypatch.setattr(pairs, "chosen", lambda scheme, batch, words: (batch.lengths == len("different")).long())
    assert (
        pairs.evaluate_pairs("common", job, scheme, TOKENIZER, SPACE)[
            "common/understanding/same_different_accuracy"
        ].value
        == 1
    )


def test_text_alone_is_read_byte_by_byte_up_to_boi():
    scheme = made()
    torch.nn.init.normal_(scheme.backbone.text_head.weight, std=0.5)
    text, lengths = encode_text(["abc", "", "xy"])
    found = _text_nats(scheme, text, lengths)
    backbone = scheme.backbone
    for row, caption in enumerate(["abc", "", "xy"]):
        tokens = torch.tensor([[BOS, *caption.encode()]])
        turn = backbone.rotation(torch.tensor([99]), tokens.shape[1])
        states = backbone(backbone.text(tokens), turn, mask=None, causal=True)
        said = torch.tensor([*caption.encode(), BOI])
        nats = -backbone.text_head(states)[0].log_softmax(-1)[torch.arange(len(said)), said].sum()
        torch.testing.assert_close(found[row], nats, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["denoise", "masked"])
def test_the_left_half_of_a_completion_is_the_original(kind):
    found = complete(made(kind), TOKENIZER, SPACE, TABLE, seed=0, count=6)
    originals = split().images[pairs.some(12, 6)]
    assert torch.equal(found[..., : SIDE // 2], originals[..., : SIDE // 2])
    assert not torch.equal(found[..., SIDE // 2 :], originals[..., SIDE // 2 :])


@pytest.mark.parametrize("kind", ["denoise", "masked", "causal"])
def test_free_runs_give_pictures_and_words(kind):
    images, words = say(made(kind), TOKENIZER, seed=0, size=SIDE, device=CPU)
    assert images.shape == (4, 2, 3, SIDE, SIDE)
    assert len(words) == 4
    shown = torch.tensor([said.count("<image>") for said in words])[:, None] > torch.arange(2)
    assert torch.equal(images.flatten(2).float().std(dim=2) > 0, shown)


def test_steps_are_those_that_the_flops_pay_for():
    scheme, batch = made(), TABLE.batch(SPACE, torch.arange(12))
    one = training_step_flops(scheme, batch)

    def steps(**backbone):
        return stages.backbone_steps(SimpleNamespace(config={"budget": {"backbone": backbone}}), scheme, batch)

    assert steps(steps=7) == 7
    assert steps(steps=None, training_flops=10.4 * one) == 10
    assert steps(steps=None, training_flops=1.0) == 1
    assert math.isfinite(one)


def test_a_step_s_flops_are_those_of_both_kinds_of_rows_by_their_shares():
    scheme, batch = made("causal"), TABLE.batch(SPACE, torch.arange(12))

    def flops(share):
        scheme.interleaved = share
        return training_step_flops(scheme, batch)

    one, two = flops(0.0), flops(1.0)
    assert one != two
    assert flops(0.25) == round(0.75 * one + 0.25 * two)
    assert scheme.interleaved == 0.25
