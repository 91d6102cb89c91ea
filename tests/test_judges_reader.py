"""The reader reads what stands at the places it is told, and what it reads is counted by size and background."""

import pytest
import torch

from tokbench import build, job, judges_reader
from tokbench.data import glyphs
from tokbench.evaluate.legibility import evaluate_legibility, legibility_baselines
from tokbench.evaluate.reference import Reference, mean_colour
from tokbench.interfaces import Dataset
from tokbench.judges_reader import CROP, Reader, crops, train_reader
from tokbench.metrics.standard import STANDARD

OPTIONS = {"width": 8, "seed": 0, "fingerprint": "glyphs"}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return glyphs.load(size=32, length=3, num_train=2000, num_validation=100, num_test=300, seed=0)


@pytest.fixture(scope="module")
def reference(dataset: Dataset) -> Reference:
    reader = train_reader(dataset.train, dataset.validation, steps=70, cache=None, **OPTIONS)
    return Reference(dataset, None, None, reader=reader)


def test_the_reader_reads_originals_and_not_flat_colours(reference: Reference) -> None:
    assert reference.reader.validation_accuracy > 0.9
    assert reference.read_originals.double().mean() > 0.9
    assert reference.read(mean_colour(reference.dataset.test)).double().mean() < 0.15


def test_it_reads_the_characters_in_their_order_and_each_from_its_own_image(reference: Reference) -> None:
    test, reader = reference.dataset.test, reference.reader
    found = reader.read(test.images[:50], test.truth["box"][:50], length=3)
    parts = [reader.read(test.images[i : i + 1], test.truth["box"][i : i + 1], length=3) for i in range(50)]
    assert torch.equal(found, torch.cat(parts))
    swapped = reader.read(test.images[:50].flip(0), test.truth["box"][:50].flip(0), length=3)
    assert torch.equal(swapped, found.flip(0))


def test_crops_are_the_surroundings_of_each_cell() -> None:
    """An image that says where its pixels are: crop centres are cell centres, their extent the longer side and margin."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    image = torch.stack([rows, columns, 0 * rows]).byte()[None] * 4
    top, left, height, width, length = 20, 10, 14, 30, 3
    cut = (crops(image, torch.tensor([[top, left, height, width]]), length=length) + 1) * 127.5 / 4
    assert cut.shape == (3, 3, CROP, CROP)
    side = height + 2
    expected = top - 1 + (torch.arange(CROP) + 0.5) * side / CROP - 0.5
    torch.testing.assert_close(cut[0, 0, :, 0], expected, atol=1e-3, rtol=0)
    for k in range(length):
        centre = left + (k + 0.5) * 10
        expected = centre - side / 2 + (torch.arange(CROP) + 0.5) * side / CROP - 0.5
        torch.testing.assert_close(cut[k, 1, 0], expected, atol=1e-3, rtol=0)


def test_brightness_and_contrast_do_not_matter() -> None:
    torch.manual_seed(0)
    reader, seen = Reader(4).eval(), torch.randn(5, 3, CROP, CROP)
    torch.testing.assert_close(reader(seen * 0.5 + 0.2), reader(seen), atol=0.02, rtol=0.02)


def test_measures_are_shares_by_size_and_background(reference: Reference) -> None:
    """Half of the images blanked: their shares fall to chance, the others keep theirs."""
    test = reference.dataset.test
    blanked = test.truth["font_size"] <= 10
    images = torch.where(blanked[:, None, None, None], mean_colour(test), test.images)
    measures, shares = evaluate_legibility(images, reference, nominal_bits=300.0)
    originals = legibility_baselines(reference)
    assert set(measures) == {key for key in STANDARD if key.startswith("legibility/")}
    for size in glyphs.FONT_SIZES:
        key = f"legibility/char_accuracy_{size}_px"
        rows = test.truth["font_size"] == size
        assert measures[key].n == int(rows.sum())
        assert measures[key].value == pytest.approx(shares["char_accuracy"][rows].double().mean().item())
        strings = measures[f"legibility/string_accuracy_{size}_px"]
        assert strings.value == pytest.approx(shares["string_accuracy"][rows].double().mean().item())
        same = measures[key].value == originals[f"baseline/real/{key}"].value
        assert same == (size > 10)
    whole = measures["legibility/char_accuracy"].value
    by_ground = [measures[f"legibility/char_accuracy_{name}"] for name in glyphs.BACKGROUNDS]
    assert sum(m.value * m.n for m in by_ground) / sum(m.n for m in by_ground) == pytest.approx(whole)
    assert measures["legibility/string_accuracy"].value <= whole
    real = originals["baseline/real/legibility/string_accuracy"].value
    relative = measures["legibility/string_accuracy_relative"].value
    assert relative * real == pytest.approx(measures["legibility/string_accuracy"].value)
    assert measures["legibility/bits_per_glyph"].value == 100
    needed = sum(glyphs.text_bits(size=32, length=3)) / 3
    assert measures["legibility/text_bits_per_glyph"].value == pytest.approx(needed)


def test_originals_lose_nothing_and_what_is_continuous_has_no_bits(reference: Reference) -> None:
    measures, _ = evaluate_legibility(reference.dataset.test.images, reference, nominal_bits=None)
    assert measures["legibility/char_accuracy_relative"].value == 1
    assert measures["legibility/bits_per_glyph"].reason == "continuous"


def test_a_string_counts_only_where_every_character_is_right(reference: Reference) -> None:
    truth = reference.dataset.test.truth["characters"]

    class Forgetful(Reader):
        def read(self, images: torch.Tensor, truth_: torch.Tensor, *, length: int) -> torch.Tensor:
            found = truth.clone()
            found[::2, 1] = (found[::2, 1] + 1) % len(glyphs.ALPHABET)
            return found

    blind = Reference(reference.dataset, None, None, reader=Forgetful(4))
    measures = legibility_baselines(blind)
    assert measures["baseline/real/legibility/string_accuracy"].value == 0.5
    assert measures["baseline/real/legibility/char_accuracy"].value == pytest.approx(5 / 6, rel=1e-6)


def test_the_cache_is_named_by_all_that_makes_the_reader(dataset: Dataset, tmp_path, monkeypatch) -> None:
    options = {**OPTIONS, "steps": 2, "cache": tmp_path}
    first = train_reader(dataset.train, dataset.validation, **options)
    for change in ({"width": 9}, {"steps": 3}, {"seed": 1}, {"fingerprint": "other"}):
        train_reader(dataset.train, dataset.validation, **{**options, **change})
    assert len(list(tmp_path.iterdir())) == 5
    monkeypatch.setattr(judges_reader, "fit_judge", lambda *args, **kwargs: pytest.fail("trained again"))
    again = train_reader(dataset.train, dataset.validation, **options)
    assert again.weights_sha256 == first.weights_sha256
    assert again.validation_accuracy == first.validation_accuracy


def test_the_record_names_the_reader(reference: Reference) -> None:
    found = reference.judges()
    assert found["reader_weights_sha256"] == reference.reader.weights_sha256
    assert found["reader_validation_accuracy"] == round(reference.reader.validation_accuracy, 4)


def test_only_runs_on_glyphs_have_the_reader_in_their_hash() -> None:
    small = [f"data.num_{name}=40" for name in ("train", "validation", "test")]
    with_reader = job.prepare(build.compose(["data=glyphs", "budget=smoke", "stage=tokenizer", *small]))
    without = job.prepare(build.compose(["budget=smoke", "stage=tokenizer"]))
    assert {"judges_reader", "evaluate.legibility", "data.glyphs"} <= with_reader.versions.keys()
    assert not {"judges_reader", "evaluate.legibility"} & without.versions.keys()
