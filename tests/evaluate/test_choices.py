"""The right caption must be the likeliest of all; a model that cannot tell gets no credit."""

import pytest
import torch

from tokbench.data import glyphs, scenes
from tokbench.evaluate.choices import chosen, distractors, evaluate_choices
from tokbench.evaluate.tokens import encode_split, token_space
from tokbench.interfaces import Dataset, TokenBatch
from tokbench.metrics.standard_truth import DISTRACTORS
from tokbench.tokenizers.patches import Patches


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return glyphs.load(size=32, length=3, num_train=40, num_validation=20, num_test=60, seed=0)


def texts(batch: TokenBatch) -> list[list[int]]:
    return [row[:length] for row, length in zip(batch.text.tolist(), batch.lengths.tolist(), strict=True)]


class Knows:
    """Gives the caption of an image the fewest nats, which it finds by the image's first latents; others by `nats`."""

    def __init__(self, batch: TokenBatch, wrong: float) -> None:
        rows = zip(batch.latents, texts(batch), strict=True)
        self.known = {row.numpy().tobytes(): text for row, text in rows}
        self.wrong = wrong

    def caption_nll(self, batch: TokenBatch) -> torch.Tensor:
        pairs = zip(batch.latents, texts(batch), strict=True)
        return torch.tensor([1.0 if self.known[row.numpy().tobytes()] == text else self.wrong for row, text in pairs])


@pytest.mark.parametrize(("wrong", "accuracy"), [(2.0, 1.0), (0.5, 0.0), (1.0, 0.0)])
def test_reading_asks_for_the_right_string(dataset: Dataset, wrong: float, accuracy: float) -> None:
    table = encode_split(Patches(4), dataset.test, batch=32, device=torch.device("cpu"))
    space = token_space(Patches(4), table, size=32)
    scheme = Knows(table.batch(space, torch.arange(60)), wrong)
    measures = evaluate_choices("native", scheme, space, table, dataset.test, images=25, batch=10)  # type: ignore[arg-type]
    found = measures["native/understanding/reading_accuracy"]
    assert (found.value, found.n) == (accuracy, 25)


def test_exactness_asks_for_the_caption_of_the_scene() -> None:
    split = scenes.load(size=32, num_train=1, num_validation=1, num_test=60, seed=0).test
    table = encode_split(Patches(8), split, batch=32, device=torch.device("cpu"))
    space = token_space(Patches(8), table, size=32)
    scheme = Knows(table.batch(space, torch.arange(60)), 2.0)
    measures = evaluate_choices("common", scheme, space, table, split, images=20, batch=7)  # type: ignore[arg-type]
    assert measures["common/understanding/caption_exactness"].value == 1.0


def test_the_least_nats_win() -> None:
    class ByLength:
        def caption_nll(self, batch: TokenBatch) -> torch.Tensor:
            return (batch.lengths - batch.latents[:, 0, 0]).abs().float()

    batch = TokenBatch(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), None, torch.zeros(3, 0), torch.zeros(3))
    found = chosen(ByLength(), batch, [("a", "bb", "ccc"), ("a", "bb", "ccc"), ("a", "bb", "ccc")])  # type: ignore[arg-type]
    assert found.tolist() == [0, 1, 2]


def test_distractors_are_other_images_strings_always_the_same(dataset: Dataset) -> None:
    rows = torch.tensor([3, 9])
    found = distractors(dataset.test, rows)
    for row, others in zip(rows.tolist(), found, strict=True):
        assert len(set(others)) == DISTRACTORS
        assert dataset.test.captions[row] not in others
        assert set(others) <= set(dataset.test.captions)
    assert found == distractors(dataset.test, rows)
    assert found[0] != found[1]
