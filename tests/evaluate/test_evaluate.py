"""Measures of a trained tokenizer and scheme, and the fairness rules of a comparison."""

from math import log2

import pytest
import torch

from tokbench.evaluate.baselines import evaluate_baselines
from tokbench.evaluate.generation import Sizes, evaluate_understanding, sample_measures
from tokbench.evaluate.maps import lost_maps
from tokbench.evaluate.reference import Reference, mean_colour, some
from tokbench.evaluate.tokenizer import evaluate_tokenizer
from tokbench.evaluate.tokens import encode_split, token_space
from tokbench.interfaces import Dataset, Split, TokenBatch
from tokbench.judges import ColourClassifier
from tokbench.metrics.maps import octave_bands
from tokbench.metrics.standard import STANDARD
from tokbench.quantizers.fsq import FiniteScalarQuantizer
from tokbench.tokenizers.autoencoder import Autoencoder
from tokbench.tokenizers.patches import Patches

CPU = torch.device("cpu")


def split(n: int, seed: int) -> Split:
    """Noise around a grey that names the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    images = torch.randint(0, 100, (n, 3, 16, 16), generator=generator) + 100 * labels[:, None, None, None]
    captions = tuple(("dark", "light")[k] for k in labels.tolist())
    return Split(images.to(torch.uint8), captions, labels, torch.arange(n))


@pytest.fixture(scope="module")
def reference() -> Reference:
    parts = [split(n, seed) for seed, n in enumerate((160, 40, 90, 90))]
    dataset = Dataset("noise", True, ("dark", "light"), *parts)
    return Reference(dataset, None, ColourClassifier(dataset.train, 2))


def test_lossless_patches_reach_the_cap_and_carry_no_codes(reference: Reference) -> None:
    result = evaluate_tokenizer(Patches(4), reference, batch=32, device=CPU)
    assert result.measures["reconstruction/psnr_db"].value == 100
    assert result.measures["reconstruction/psnr_ge_40"].value == 1
    assert result.measures["bits/relative_quantization_error"].value == 0
    assert result.measures["bits/usage"].reason == "continuous"
    assert torch.equal(result.images, reference.dataset.test.images)


def test_nominal_bits_take_the_actual_number_of_codes(reference: Reference) -> None:
    torch.manual_seed(0)
    tokenizer = Autoencoder(FiniteScalarQuantizer([8, 5, 5, 5]), width=8, factor=4, depth=1).eval()
    measures = evaluate_tokenizer(tokenizer, reference, batch=32, device=CPU).measures
    assert measures["bits/nominal_bits_per_image"].value == pytest.approx(16 * log2(1000))
    assert measures["bits/usage_tokens"].value == 90 * 16
    assert measures["bits/marginal_bits_per_image"].value <= 16 * log2(1000)


def test_rarefaction_ends_at_the_usage_of_the_test_split(reference: Reference) -> None:
    torch.manual_seed(0)
    tokenizer = Autoencoder(FiniteScalarQuantizer([8, 5, 5, 5]), width=8, factor=4, depth=1).eval()
    result = evaluate_tokenizer(tokenizer, reference, batch=32, device=CPU)
    assert result.rarefaction is not None
    tokens, curve = result.rarefaction
    assert tokens[-1] == result.measures["bits/usage_tokens"].value
    assert curve[-1].item() == pytest.approx(result.measures["bits/usage"].value)
    assert evaluate_tokenizer(Patches(4), reference, batch=32, device=CPU).rarefaction is None


def test_maps_of_what_is_lost_add_up_to_the_measures(reference: Reference) -> None:
    torch.manual_seed(0)
    tokenizer = Autoencoder(FiniteScalarQuantizer([5, 5]), width=8, factor=4, depth=1).eval()
    result = evaluate_tokenizer(tokenizer, reference, batch=32, device=CPU)
    found = lost_maps(tokenizer, result, reference.dataset.test)
    error = result.images.double() - reference.dataset.test.images.double()
    assert found["error_by_pixel"].mean().item() == pytest.approx(error.abs().mean().item(), rel=1e-5)
    assert found["entropy_by_position"].shape == (4, 4)
    assert found["entropy_by_position"].max() <= log2(25) + 1e-6
    band = octave_bands(16, 16)[1]
    share = torch.bincount(band.flatten()) / band.numel()
    assert float(found["power_error"] @ share) == pytest.approx(error.square().mean().item(), rel=1e-4)
    lossless = evaluate_tokenizer(Patches(4), reference, batch=32, device=CPU)
    found = lost_maps(Patches(4), lossless, reference.dataset.test)
    assert "entropy_by_position" not in found
    assert found["power_error"].max() == found["error_by_pixel"].max() == 0


def test_measures_do_not_depend_on_the_batch(reference: Reference) -> None:
    torch.manual_seed(0)
    tokenizer = Autoencoder(FiniteScalarQuantizer([5, 5]), width=8, factor=4, depth=1).eval()
    one, two = (evaluate_tokenizer(tokenizer, reference, batch=b, device=CPU).measures for b in (7, 90))
    for key, measure in one.items():
        if measure.value is not None:
            assert two[key].value == pytest.approx(measure.value, rel=1e-3, abs=1e-4), key


def test_mean_colour_keeps_the_mean_alone(reference: Reference) -> None:
    flat = mean_colour(reference.dataset.test)
    assert flat.float().std(dim=(2, 3)).max() == 0
    assert (flat[..., 0, 0].float() - reference.dataset.test.images.float().mean(dim=(2, 3))).abs().max() <= 0.5


def test_replayed_training_images_are_found_out(reference: Reference) -> None:
    measures = evaluate_baselines(reference, samples=70)
    assert measures["baseline/replayed_train/generation/nearest_train_distance"].value == 0
    assert measures["baseline/real/generation/nearest_train_distance"].value > 10
    assert measures["baseline/mean_colour/reconstruction/psnr_db"].value < 20


def test_what_has_no_classes_has_no_class_measures(reference: Reference) -> None:
    images = reference.dataset.generation.images[:70]
    measures = sample_measures("common/generation/", images, None, reference)
    assert measures["common/generation/class_agreement"].reason == "no classes"
    assert measures["common/generation/fd_classifier"].reason == "no classes"
    assert measures["common/generation/fd_random64"].reason == "n = 70 < 5000"


def test_tokens_are_standardised_by_the_training_split_and_restored(reference: Reference) -> None:
    torch.manual_seed(0)
    tokenizer = Autoencoder(FiniteScalarQuantizer([8, 5, 5, 5]), width=8, factor=4, depth=1).eval()
    table = encode_split(tokenizer, reference.dataset.train, batch=32, device=CPU)
    space = token_space(tokenizer, table, size=16)
    x = space.standardize(table.z_q).flatten(0, 1)
    moving = space.std > 1e-3
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(x.std(dim=0)[moving], torch.ones(4)[moving], atol=1e-3, rtol=0)
    torch.testing.assert_close(space.restore(space.standardize(table.z_q)), table.z_q)
    assert torch.equal(tokenizer.indices_to_codes(table.indices), table.z_q)


def test_patches_are_standardised_per_colour(reference: Reference) -> None:
    table = encode_split(Patches(4), reference.dataset.train, batch=32, device=CPU)
    space = token_space(Patches(4), table, size=16)
    assert len(space.mean.unique()) <= 3
    images = reference.dataset.train.images.float() / 127.5 - 1
    torch.testing.assert_close(space.mean[::16], images.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(space.std[::16], images.transpose(0, 1).flatten(1).std(dim=1))


class Oracle:
    """Gives the true caption the fewest nats."""

    loss_weights = {"text": 1.0}  # noqa: RUF012

    def caption_nll(self, batch: TokenBatch, *, content: bool = False) -> torch.Tensor:
        light = batch.latents.mean(dim=(1, 2)) > 0
        named_light = batch.lengths == 5
        return torch.where(light == named_light, 1.0, 9.0) - 0.5 * content


def test_understanding_counts_bytes_and_finds_the_likeliest_class(reference: Reference) -> None:
    held_out = reference.dataset.generation
    table = encode_split(Patches(4), held_out, batch=32, device=CPU)
    space = token_space(Patches(4), table, size=16)
    sizes = Sizes(samples=1, tuning_samples=1, guidances=(1.5,), understanding=90, batch=32)
    arguments = (space, table, held_out, ("dark", "light"), sizes)
    measures = evaluate_understanding("common", Oracle(), *arguments)  # type: ignore[arg-type]
    assert measures["common/understanding/caption_accuracy"].value == 1
    expected = 90 / torch.log(torch.tensor(2.0)).item() / (45 * 4 + 45 * 5)
    assert measures["common/understanding/caption_bits_per_byte"].value == pytest.approx(expected)
    assert measures["common/understanding/caption_content_bits_per_byte"].value == pytest.approx(expected / 2)


def test_some_is_the_same_choice_every_time_without_repeats() -> None:
    assert torch.equal(some(100, 10), some(100, 10))
    assert len(some(100, 200).unique()) == 100


def test_no_measure_that_collapse_improves_has_an_arrow() -> None:
    for key, definition in STANDARD.items():
        if key.startswith("bits/"):
            assert definition.direction is None, key
