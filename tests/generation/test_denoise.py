import math

import pytest
import torch

from tokbench.backbone.sequence import BOI, BOS, encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.generation.denoise import Denoise
from tokbench.interfaces import TokenBatch, TokenSpace

GRID, N, D, V, WIDTH = (2, 3), 6, 2, 5, 32
CAPTIONS = ["red", "a blue one", ""]


def _space(discrete=True):
    codes = torch.randn(V, D, generator=torch.Generator().manual_seed(1)) * 3 + 1
    return TokenSpace(GRID, D, (V,) if discrete else (), codes.mean(0), codes.std(0), lambda indices: codes[indices])


def _batch(captions=CAPTIONS, seed=2):
    space = _space()
    indices = torch.randint(V, (len(captions), N), generator=torch.Generator().manual_seed(seed))
    text, lengths = encode_text(captions)
    return TokenBatch(space.standardize(space.indices_to_codes(indices)), indices, text, lengths)


def _scheme(*, space=None, image_first=0.2, caption_dropout=0.1, noise=0.3, **changes):
    torch.manual_seed(0)
    options = {"schedule": "cosine", "prediction": "v", "steps": 4, "sampler": "ddim"} | changes
    scheme = Denoise(
        space or _space(),
        Backbone(dim=D, width=WIDTH, depth=2, heads=2, grid=GRID, positions="rope_tv", base=100.0),
        image_first=image_first,
        caption_dropout=caption_dropout,
        loss_weights={"text": 1.0, "image": 5.0},
        **options,
    )
    for parameter in scheme.parameters():
        if parameter.ndim > 1 and noise:
            torch.nn.init.normal_(parameter, std=noise)
    return scheme


def _sample(scheme, captions=CAPTIONS, *, guidance=1.0, seed=0):
    return scheme.sample(*encode_text(captions), guidance=guidance, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_discrete_samples_are_codes_and_a_seed_repeats(sampler, prediction, schedule):
    scheme = _scheme(sampler=sampler, prediction=prediction, schedule=schedule)
    drawn = _sample(scheme, CAPTIONS * 5)
    assert drawn.z_q.shape == (15, N, D)
    assert drawn.indices.shape == (15, N)
    assert ((drawn.indices >= 0) & (drawn.indices < V)).all()
    assert torch.equal(drawn.z_q, scheme.space.indices_to_codes(drawn.indices))
    assert torch.equal(drawn.indices, _sample(scheme, CAPTIONS * 5).indices)
    assert not torch.equal(drawn.indices, _sample(scheme, CAPTIONS * 5, seed=1).indices)


def test_continuous_samples_come_back_in_the_tokenizers_units():
    scheme = _scheme(space=_space(discrete=False), prediction="x0", noise=0)
    drawn = _sample(scheme)  # an untrained x0 is zero: the mean of the training split
    assert drawn.indices is None
    torch.testing.assert_close(drawn.z_q, scheme.space.mean.expand(3, N, D))


def test_guidance_one_reads_no_unconditional_rows_and_empty_captions_need_none(monkeypatch):
    scheme = _scheme(space=_space(discrete=False))
    rows = []
    prefill = scheme.backbone.prefill

    def counting(tokens, *rest, **options):
        rows.append(len(tokens))
        return prefill(tokens, *rest, **options)

    monkeypatch.setattr(scheme.backbone, "prefill", counting)
    plain, guided = (_sample(scheme, ["", ""], guidance=guidance).z_q for guidance in (1.0, 3.0))
    assert rows == [2, 4]
    torch.testing.assert_close(plain, guided, atol=1e-4, rtol=1e-4)
    moved = [_sample(scheme, ["ab"], guidance=guidance).z_q for guidance in (1.0, 3.0)]
    assert not torch.allclose(*moved)


def test_a_row_samples_alike_beside_longer_captions():
    scheme = _scheme(space=_space(discrete=False))
    alike = _sample(scheme, ["ab"] * 4).z_q
    beside = _sample(scheme, ["ab", "a much longer caption", "", "x"]).z_q
    torch.testing.assert_close(alike[0], beside[0], atol=1e-3, rtol=1e-3)  # row 0 gets the same draws
    assert not torch.allclose(alike[1], beside[1], atol=1e-2)


def test_a_clean_image_first_counts_in_the_text_loss_alone():
    batch, generator = _batch(), torch.Generator().manual_seed(0)
    losses = _scheme(image_first=1.0).loss(batch, generator)
    assert losses["image"] == 0
    assert losses["text"] > 0
    scheme = _scheme(image_first=1.0)
    (scheme.loss(batch, generator)["text"]).backward()
    assert scheme.output.weight.grad is None or scheme.output.weight.grad.abs().sum() == 0


def test_training_reads_the_clean_image_as_caption_nll_does():
    scheme, batch = _scheme(image_first=1.0), _batch()
    nats = scheme.caption_nll(batch)
    assert nats.shape == (3,)
    assert scheme.nll(batch) is None
    text = scheme.loss(batch, torch.Generator().manual_seed(0))["text"]
    rows_nats = text * (batch.lengths + 2).sum()  # BOS says BOI besides the bytes and EOS
    backbone = scheme.backbone
    turn = backbone.rotation(torch.tensor([2]), 1)
    start = backbone(backbone.text(torch.tensor([[BOS]])), turn, mask=None, causal=True)
    boi = backbone.text_nats(start, torch.tensor([[BOI]])).sum()
    torch.testing.assert_close(nats.sum() + 3 * boi, rows_nats, atol=1e-3, rtol=1e-4)


def test_caption_nll_of_an_untrained_scheme_is_log_260_a_target():
    batch = _batch()
    nats = _scheme(noise=0).caption_nll(batch)
    torch.testing.assert_close(nats, (batch.lengths + 1) * math.log(260), rtol=0.1, atol=0)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_an_untrained_output_costs_the_variance_of_its_target(prediction):
    """The output starts at zero, so the loss is the target's mean square: 1 for unit data and unit noise."""
    space = TokenSpace(GRID, D, (), torch.zeros(D), torch.ones(D), lambda indices: indices)
    scheme = _scheme(space=space, prediction=prediction, noise=0, image_first=0.0)
    text, lengths = encode_text([""] * 500)
    batch = TokenBatch(torch.randn(500, N, D), None, text, lengths)
    assert abs(scheme.loss(batch, torch.Generator().manual_seed(0))["image"].item() - 1) < 0.06


def test_every_parameter_gets_a_gradient():
    scheme = _scheme()
    losses = scheme.loss(_batch(CAPTIONS * 4), torch.Generator().manual_seed(0))
    assert set(losses) == set(scheme.loss_weights)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in scheme.parameters())


def test_what_does_not_fit_is_refused_by_name():
    space = TokenSpace(GRID, D, (4, 4), torch.zeros(D), torch.ones(D), lambda indices: indices)
    with pytest.raises(ValueError, match="needs the tokenizer's own snap"):
        _scheme(space=space)
    with pytest.raises(ValueError, match="prediction must be one of x0, eps, v, flow, got 'score'"):
        _scheme(prediction="score")
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        _scheme(steps=0)


def test_one_batch_can_be_learned_by_heart_and_sampled_again():
    """The captions name the images, so that x0 is known and the floor is 0; saying the mean costs about 1."""
    captions = ["red", "a blue one", "green", "x"]
    batch, generator = _batch(captions), torch.Generator().manual_seed(0)
    scheme = _scheme(prediction="x0", image_first=0.0, caption_dropout=0.0, noise=0, steps=8)
    optimizer = torch.optim.AdamW(scheme.parameters(), 3e-3)
    many = TokenBatch(*(part.repeat(4, *[1] * (part.ndim - 1)) for part in vars(batch).values()))
    for _ in range(200):
        losses = scheme.loss(many, generator)
        loss = sum(scheme.loss_weights[name] * value for name, value in losses.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses["image"] < 0.05
    assert (_sample(scheme, captions).indices == batch.indices).float().mean() > 0.95
