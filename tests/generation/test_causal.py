import math

import pytest
import torch

from tokbench.backbone.sequence import encode_text, rows_of_one_kind
from tokbench.backbone.transformer import Backbone
from tokbench.generation.causal import Causal
from tokbench.heads.categorical import Categorical
from tokbench.heads.factorised import Factorised
from tokbench.interfaces import TokenBatch, TokenSpace

GRID, N, D, V, WIDTH = (2, 3), 6, 2, 5, 32
CAPTIONS = ["red", "a blue one", ""]


def _space():
    codes = torch.randn(V, D, generator=torch.Generator().manual_seed(1)) * 3 + 1
    return TokenSpace(GRID, D, (V,), codes.mean(0), codes.std(0), lambda indices: codes[indices])


def _batch(captions=CAPTIONS, seed=2):
    space = _space()
    indices = torch.randint(V, (len(captions), N), generator=torch.Generator().manual_seed(seed))
    text, lengths = encode_text(captions)
    return TokenBatch(space.standardize(space.indices_to_codes(indices)), indices, text, lengths)


def _scheme(*, order="raster", image_first=0.2, caption_dropout=0.1, temperature=1.0, noise=0.3, **chameleon):
    torch.manual_seed(0)
    backbone = Backbone(dim=D, width=WIDTH, depth=2, heads=2, grid=GRID, positions="rope_tv", base=100.0)
    scheme = Causal(
        _space(),
        backbone,
        Categorical(width=WIDTH, codebook_sizes=(V,), top_p=1.0),
        order=order,
        image_first=image_first,
        caption_dropout=caption_dropout,
        loss_weights={"text": 1.0, "image": 1.0},
        temperature=temperature,
        **chameleon,
    )
    for parameter in scheme.parameters():
        if parameter.ndim > 1 and noise:
            torch.nn.init.normal_(parameter, std=noise)
    return scheme


def _sample(scheme, captions=CAPTIONS, *, guidance=1.0, seed=0, use_cache=True):
    generator = torch.Generator().manual_seed(seed)
    return scheme.sample(*encode_text(captions), guidance=guidance, generator=generator, use_cache=use_cache)


def test_samples_have_their_shape_range_and_units():
    scheme = _scheme()
    drawn = _sample(scheme)
    assert drawn.z_q.shape == (3, N, D)
    assert drawn.indices.shape == (3, N)
    assert drawn.indices.dtype == torch.int64
    assert ((drawn.indices >= 0) & (drawn.indices < V)).all()
    assert torch.equal(drawn.z_q, scheme.space.indices_to_codes(drawn.indices))
    assert drawn.losses == {}


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_seed_repeats_and_the_cache_changes_nothing(guidance):
    scheme = _scheme()
    captions = CAPTIONS * 20
    drawn = _sample(scheme, captions, guidance=guidance)
    assert torch.equal(drawn.indices, _sample(scheme, captions, guidance=guidance).indices)
    assert torch.equal(drawn.indices, _sample(scheme, captions, guidance=guidance, use_cache=False).indices)
    assert not torch.equal(drawn.indices, _sample(scheme, captions, guidance=guidance, seed=1).indices)


def test_guidance_one_reads_no_unconditional_rows(monkeypatch):
    scheme = _scheme()
    rows = []
    prefill = scheme.backbone.prefill

    def counting(tokens, *rest, **options):
        rows.append(len(tokens))
        return prefill(tokens, *rest, **options)

    monkeypatch.setattr(scheme.backbone, "prefill", counting)
    for guidance in (1.0, 3.0):
        _sample(scheme, guidance=guidance)
    assert rows == [3, 6]


def test_guidance_of_an_empty_caption_is_no_guidance():
    scheme = _scheme()
    captions = [""] * 30
    assert torch.equal(_sample(scheme, captions).indices, _sample(scheme, captions, guidance=3.0).indices)


def test_samples_come_from_the_distribution_that_nll_states():
    scheme = _scheme(noise=0.5)
    space = TokenSpace((1, 2), D, (V,), scheme.space.mean, scheme.space.std, scheme.space.indices_to_codes)
    scheme.space, scheme.backbone.grid = space, (1, 2)
    every = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    text, lengths = encode_text(["hi"] * V * V)
    latents = space.standardize(space.indices_to_codes(every))
    probabilities = scheme.nll(TokenBatch(latents, every, text, lengths)).neg().exp()
    assert math.isclose(probabilities.sum().item(), 1, rel_tol=1e-4)
    drawn = _sample(scheme, ["hi"] * 8000).indices
    seen = (drawn[:, 0] * V + drawn[:, 1]).bincount(minlength=V * V) / 8000
    torch.testing.assert_close(seen, probabilities, atol=0.02, rtol=0)


def test_nll_reads_the_caption_and_agrees_with_the_loss():
    scheme, batch = _scheme(image_first=0.0, caption_dropout=0.0), _batch()
    nats = scheme.nll(batch)
    assert nats.shape == (3,)
    losses = scheme.loss(batch, torch.Generator().manual_seed(0))
    torch.testing.assert_close(nats.mean() / N, losses["image"].detach())
    other = _batch(["rod", "a blue one", ""])
    assert (scheme.nll(other) != nats).tolist() == [True, False, False]


def test_caption_nll_reads_the_image_and_counts_bytes_and_end():
    scheme, batch = _scheme(image_first=1.0, noise=0), _batch()
    nats = scheme.caption_nll(batch)
    torch.testing.assert_close(nats, (batch.lengths + 1) * math.log(260), rtol=0.1, atol=0)
    trained = _scheme(image_first=1.0)
    shifted = TokenBatch(-batch.latents, batch.indices, batch.text, batch.lengths)
    assert (trained.caption_nll(shifted) != trained.caption_nll(batch)).all()


def test_every_parameter_gets_a_gradient():
    scheme = _scheme()
    losses = scheme.loss(_batch(), torch.Generator().manual_seed(0))
    assert set(losses) == set(scheme.loss_weights)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in scheme.parameters())


def test_a_continuous_batch_is_refused():
    batch = _batch()
    with pytest.raises(ValueError, match=r"head Categorical needs batch\.indices"):
        _scheme().nll(TokenBatch(batch.latents, None, batch.text, batch.lengths))


def test_one_batch_can_be_learned_by_heart_and_sampled_again():
    scheme = _scheme(image_first=0.3, caption_dropout=0.0, noise=0)
    batch = _batch(["red", "a blue one", "green", "x"])
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(scheme.parameters(), 3e-3)
    first = batch.indices[:1].expand(4, -1)  # one image for all: its floor is 0 nats in both orders
    batch = TokenBatch(batch.latents[:1].expand(4, -1, -1), first, batch.text, batch.lengths)
    for _ in range(120):
        loss = sum(scheme.loss(batch, generator).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert scheme.loss(batch, generator)["image"] < 0.05
    assert torch.equal(_sample(scheme, ["red", "x"]).indices, first[:2])


def test_the_caption_chooses_the_image():
    scheme = _scheme(image_first=0.0, caption_dropout=0.0, noise=0)
    batch = _batch(["red", "a blue one", "green", "x"])
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(scheme.parameters(), 3e-3)
    for _ in range(150):
        loss = scheme.loss(batch, generator)["image"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert torch.equal(_sample(scheme, ["red", "a blue one", "green", "x"]).indices, batch.indices)


def test_a_joint_vocabulary_is_one_softmax_and_z_its_squared_logarithm():
    """By hand, place by place: 260 text tokens first, then the codes."""
    batch, options = _batch(), {"image_first": 0.0, "caption_dropout": 0.0}
    scheme = _scheme(joint_vocabulary=True, z_loss=1e-5, **options)
    losses = scheme.loss(batch, torch.Generator().manual_seed(0))
    assert scheme.loss_weights == {"text": 1.0, "image": 1.0, "z": 1e-5}
    assert set(losses) == set(scheme.loss_weights)
    rows = rows_of_one_kind(batch, N, image_first=False)
    states = scheme.backbone.read(rows, batch.latents, bidirectional=False)
    nats, squares = {"text": [], "image": []}, []
    for row in range(len(batch.text)):
        for place in range(rows.tokens.shape[1]):
            logits = torch.cat((scheme.backbone.text_head(states[row, place]), scheme.head.logits(states[row, place])))
            code = place + 1 - int(rows.image_start[row])
            said = int(rows.targets[row, place])
            if 0 <= code < N:
                nats["image"].append(-logits.log_softmax(0)[260 + batch.indices[row, code]])
            elif said >= 0:
                nats["text"].append(-logits.log_softmax(0)[said])
            else:
                continue
            squares.append(logits.logsumexp(0).square())
    for name, values in {**nats, "z": squares}.items():
        torch.testing.assert_close(losses[name], torch.stack(values).mean(), rtol=1e-4, atol=1e-4)


def test_separate_vocabularies_with_z_keep_their_losses_and_samples():
    batch, options = _batch(), {"image_first": 0.2, "caption_dropout": 0.1}
    plain, with_z = _scheme(**options), _scheme(z_loss=1e-4, **options)
    first, second = (s.loss(batch, torch.Generator().manual_seed(0)) for s in (plain, with_z))
    torch.testing.assert_close({k: second[k] for k in first}, first)
    assert second["z"] > 0
    joint = _scheme(joint_vocabulary=True, **options)
    assert torch.equal(_sample(joint).indices, _sample(plain).indices)
    assert torch.equal(joint.nll(batch), plain.nll(batch))
    with pytest.raises(ValueError, match="joint_vocabulary and z_loss need head Categorical, got Factorised"):
        Causal(
            _space(),
            plain.backbone,
            Factorised(width=WIDTH, codebook_sizes=(V,), top_p=1.0),
            order="raster",
            image_first=0.2,
            caption_dropout=0.1,
            loss_weights={},
            temperature=1.0,
            z_loss=1e-5,
        )
