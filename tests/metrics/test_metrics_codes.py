import math

import numpy as np
import pytest
import torch
from scipy import stats

from tokbench.metrics.codes import (
    CodeStatistics,
    code_counts,
    entropy_bits,
    mean_norm,
    perplexity,
    plugin_entropy_bits,
    rarefaction,
    rarefaction_sizes,
    relative_quantization_error,
    usage,
    usage_cap,
)


def draw(size: int, count: int, seed: int) -> torch.Tensor:
    return torch.randint(size, (count,), generator=torch.Generator().manual_seed(seed))


def test_counts_are_those_of_the_indices():
    assert code_counts(torch.tensor([[0, 2], [2, 2]]), 4).tolist() == [1, 0, 3, 0]


@pytest.mark.parametrize("bad", [[0, 4], [-1, 0]])
def test_counts_refuse_an_index_outside_the_codebook(bad):
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        code_counts(torch.tensor(bad), 4)


def test_a_uniform_histogram_has_perplexity_v_and_a_single_code_one():
    uniform, single = torch.full((10,), 7), torch.tensor([0, 50, 0])
    assert plugin_entropy_bits(uniform) == pytest.approx(math.log2(10))
    assert perplexity(uniform) == pytest.approx(10)
    assert usage(uniform) == 1
    assert (plugin_entropy_bits(single), entropy_bits(single), perplexity(single)) == (0, 0, 1)
    assert usage(single) == pytest.approx(1 / 3)


def test_plugin_entropy_agrees_with_scipy():
    counts = torch.tensor([5, 0, 1, 19, 3])
    assert plugin_entropy_bits(counts) == pytest.approx(stats.entropy(counts.numpy(), base=2), rel=1e-12)


def test_the_correction_removes_most_of_the_plugin_bias():
    truth = math.log2(32)
    counts = [code_counts(draw(64, 400, seed) // 2, 64) for seed in range(100)]
    plugin, corrected = ([function(c) for c in counts] for function in (plugin_entropy_bits, entropy_bits))
    assert truth - np.mean(plugin) > 0.04
    assert abs(np.mean(corrected) - truth) < 0.01


def test_entropy_never_exceeds_log2_of_the_codebook():
    assert entropy_bits(torch.ones(16, dtype=torch.int64)) == 4


def test_usage_of_uniform_tokens_meets_its_cap():
    shares = [usage(code_counts(draw(200, 300, seed), 200)) for seed in range(50)]
    assert np.mean(shares) == pytest.approx(usage_cap(300, 200), abs=0.01)


def test_statistics_of_no_tokens_are_refused():
    with pytest.raises(ValueError, match="token"):
        usage(torch.zeros(4, dtype=torch.int64))
    with pytest.warns(UserWarning, match="before the"), pytest.raises(ValueError, match="token"):
        CodeStatistics((4,)).compute()


def test_relative_error_and_norms_are_what_they_say():
    z = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    z_q = torch.tensor([[3.0, 3.0], [0.0, 0.0]])
    assert relative_quantization_error(z, z_q) == pytest.approx(5 / 29)
    assert relative_quantization_error(10 * z, 10 * z_q) == pytest.approx(5 / 29)
    assert mean_norm(z) == pytest.approx(3.5)
    with pytest.raises(ValueError, match="zero"):
        relative_quantization_error(0 * z, z_q)


def batch(seed: int, stages: int | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(4, 6, 3, generator=generator)
    shape = (4, 6) if stages == 1 else (4, 6, stages or 0)
    return z, z.round(), torch.randint(8, shape, generator=generator) if stages else None


def test_accumulated_statistics_equal_those_of_all_batches_at_once():
    metric = CodeStatistics((8,))
    batches = [batch(seed, 1) for seed in range(3)]
    for z, z_q, indices in batches:
        metric.update(z, z_q, indices)
    z, z_q, indices = (torch.cat(parts) for parts in zip(*batches, strict=True))
    counts = code_counts(indices, 8)
    assert metric.compute() == pytest.approx(
        {
            "usage_tokens": 72,
            "relative_quantization_error": relative_quantization_error(z, z_q),
            "norm_z": mean_norm(z),
            "norm_z_q": mean_norm(z_q),
            "usage": usage(counts),
            "usage_cap": usage_cap(72, 8),
            "marginal_entropy_bits": entropy_bits(counts),
            "perplexity": perplexity(counts),
        }
    )
    metric.reset()
    assert metric.num_tokens == 0


def test_stages_add_their_entropies_and_average_their_usage():
    metric = CodeStatistics((8, 16))
    z, z_q, indices = batch(0, 2)
    metric.update(z, z_q, indices)
    first, second = code_counts(indices[..., 0], 8), code_counts(indices[..., 1], 16)
    values = metric.compute()
    assert values["marginal_entropy_bits"] == pytest.approx(entropy_bits(first) + entropy_bits(second))
    assert values["usage"] == pytest.approx((usage(first) + usage(second)) / 2)
    assert values["perplexity"] == pytest.approx(perplexity(first) * perplexity(second))


def test_a_continuous_tokenizer_has_error_and_norms_only():
    metric = CodeStatistics(())
    metric.update(*batch(0, None))
    assert set(metric.compute()) == {"usage_tokens", "relative_quantization_error", "norm_z", "norm_z_q"}


def test_indices_and_codebook_sizes_must_agree():
    z, z_q, indices = batch(0, 2)
    with pytest.raises(ValueError, match="iff"):
        CodeStatistics(()).update(z, z_q, indices)
    with pytest.raises(ValueError, match="iff"):
        CodeStatistics((8,)).update(z, z_q, None)
    with pytest.raises(ValueError, match="stages"):
        CodeStatistics((8,)).update(z, z_q, indices)


def test_rarefaction_agrees_with_the_hypergeometric_distribution():
    counts, sizes = torch.tensor([50, 0, 1, 19, 3, 927]), torch.tensor([1, 2, 10, 128, 999, 1000])
    missed = stats.hypergeom.pmf(0, 1000, counts.numpy()[:, None], sizes.numpy())
    np.testing.assert_allclose(rarefaction(counts, sizes).numpy(), (1 - missed).mean(axis=0), rtol=1e-9)


def test_rarefaction_is_the_mean_usage_of_samples_without_replacement():
    counts = code_counts(draw(40, 300, 0) ** 2 // 40, 40)
    tokens, rng = np.repeat(np.arange(40), counts.numpy()), np.random.default_rng(0)
    sizes = torch.tensor([5, 50, 250])
    drawn = [[len(set(rng.permutation(tokens)[:n])) / 40 for n in sizes.tolist()] for _ in range(2000)]
    np.testing.assert_allclose(rarefaction(counts, sizes).numpy(), np.mean(drawn, axis=0), atol=0.004)


def test_rarefaction_goes_from_one_code_to_the_usage_of_all_tokens():
    counts = code_counts(draw(3000, 640_000, 0) ** 2 // 3000, 4096)
    sizes = rarefaction_sizes(640_000)
    curve = rarefaction(counts, sizes)
    assert curve[0].item() == pytest.approx(1 / 4096, rel=1e-5)
    assert curve[-1].item() == usage(counts)
    assert (curve.diff() >= 0).all()


def test_rarefaction_of_uniform_tokens_follows_the_cap():
    counts, sizes = code_counts(draw(512, 200_000, 0), 512), torch.tensor([64, 512, 4096])
    caps = [usage_cap(n, 512) for n in sizes.tolist()]
    np.testing.assert_allclose(rarefaction(counts, sizes).numpy(), caps, atol=0.003)


def test_rarefaction_sizes_are_powers_of_two_and_the_whole():
    assert rarefaction_sizes(1).tolist() == [1]
    assert rarefaction_sizes(8).tolist() == [1, 2, 4, 8]
    assert rarefaction_sizes(11).tolist() == [1, 2, 4, 8, 11]


@pytest.mark.parametrize("bad", [0, 5])
def test_rarefaction_refuses_more_tokens_than_were_counted(bad):
    with pytest.raises(ValueError, match=rf"sizes must be in \[1, 4\], got {bad} to {bad}"):
        rarefaction(torch.tensor([1, 3]), torch.tensor([bad]))


def test_stages_average_their_rarefaction():
    metric = CodeStatistics((8, 16))
    z, z_q, indices = batch(0, 2)
    metric.update(z, z_q, indices)
    tokens, curve = metric.rarefaction()
    parts = [rarefaction(code_counts(indices[..., k], size), tokens) for k, size in enumerate((8, 16))]
    assert tokens.tolist() == [1, 2, 4, 8, 16, 24]
    torch.testing.assert_close(curve, (parts[0] + parts[1]) / 2)
