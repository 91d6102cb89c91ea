"""The checker names what a scene shows; an image shows its caption where all of it is named."""

import pytest
import torch

from tokbench import build, job, judges_checker
from tokbench.data import scenes
from tokbench.evaluate.exactness import evaluate_exactness, exactness_baselines, source_bits
from tokbench.evaluate.reference import Reference
from tokbench.interfaces import Dataset
from tokbench.judges_checker import VALUES, Checker, told, train_checker

OPTIONS = {"width": 8, "seed": 0, "fingerprint": "scenes"}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return scenes.load(size=32, num_train=3000, num_validation=100, num_test=200, seed=0)


@pytest.fixture(scope="module")
def reference(dataset: Dataset) -> Reference:
    checker = train_checker(dataset.train, dataset.validation, steps=100, cache=None, **OPTIONS)
    return Reference(dataset, None, None, checker=checker)


class Perfect(Checker):
    """Knows what it is asked, but for the attributes that it is told to get wrong."""

    def __init__(self, answers: torch.Tensor) -> None:
        super().__init__(2)
        self.answers = answers

    def attributes(self, images: torch.Tensor) -> torch.Tensor:
        return self.answers


def test_it_names_attributes_that_chance_does_not(reference: Reference) -> None:
    test = reference.dataset.test
    right = (reference.checker.attributes(test.images) == told(test.truth)).double().mean(dim=0)
    assert (right > 0.7).all()
    measures = exactness_baselines(reference)
    assert measures["baseline/real/reconstruction/caption_shown"].value > 0.4
    assert measures["baseline/mean_colour/reconstruction/caption_shown"].value < 0.05
    assert measures["baseline/real/generation/attributes_shown"].value > 0.7
    assert reference.checker.validation_accuracy > 0.4


def test_larger_images_of_the_same_scenes_are_the_same_to_it(reference: Reference) -> None:
    images = reference.dataset.test.images[:20]
    large = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(reference.checker.attributes(large), reference.checker.attributes(images))


def test_attributes_are_told_in_the_order_that_they_are_named(dataset: Dataset) -> None:
    truth = dataset.test.truth
    expected = [truth["relation"], *truth["shape"].T, *truth["colour"].T]
    assert torch.equal(told(truth), torch.stack(expected, dim=1))
    assert VALUES == [2, 4, 4, 6, 6]


def test_a_caption_is_shown_only_whole(dataset: Dataset) -> None:
    answers = told(dataset.test.truth).clone()
    answers[::2, 3] = (answers[::2, 3] + 1) % 6
    blind = Reference(dataset, None, None, checker=Perfect(answers))
    measures, shown = evaluate_exactness("reconstruction/", dataset.test.images, dataset.test.truth, blind)
    assert measures["reconstruction/caption_shown"].value == 0.5
    assert measures["reconstruction/attributes_shown"].value == pytest.approx(0.9)
    assert shown.tolist() == [0.0, 1.0] * 100


def test_the_entropy_is_recorded_with_what_the_caption_tells(dataset: Dataset) -> None:
    measures = source_bits(dataset)
    assert measures["bits/source_bits_per_image"].value == dataset.entropy_bits
    given = measures["bits/source_bits_given_caption"].value
    assert given == pytest.approx(dataset.entropy_bits - dataset.caption_bits)


def test_the_cache_is_named_by_all_that_makes_the_checker(dataset: Dataset, tmp_path, monkeypatch) -> None:
    options = {**OPTIONS, "steps": 2, "cache": tmp_path}
    first = train_checker(dataset.train, dataset.validation, **options)
    for change in ({"width": 9}, {"steps": 3}, {"seed": 1}, {"fingerprint": "other"}):
        train_checker(dataset.train, dataset.validation, **{**options, **change})
    assert len(list(tmp_path.iterdir())) == 5
    monkeypatch.setattr(judges_checker, "fit_judge", lambda *args, **kwargs: pytest.fail("trained again"))
    again = train_checker(dataset.train, dataset.validation, **options)
    assert again.weights_sha256 == first.weights_sha256


def test_the_record_names_the_checker_and_only_runs_on_scenes_hash_it(reference: Reference) -> None:
    found = reference.judges()
    assert found["checker_weights_sha256"] == reference.checker.weights_sha256
    assert found["checker_validation_accuracy"] == round(reference.checker.validation_accuracy, 4)
    small = [f"data.num_{name}=40" for name in ("train", "validation", "test")]
    versions = job.prepare(build.compose(["data=scenes", "budget=smoke", "stage=tokenizer", *small])).versions
    assert {"judges_checker", "evaluate.exactness", "evaluate.choices", "data.scenes"} <= versions.keys()
    assert "judges_reader" not in versions
