import pytest
import torch

from tokbench.metrics.codes import CodeStatistics
from tokbench.metrics.standard import STANDARD

NO_ARROW = (
    *(f"kodak/{bits}_bpp" for bits in ("nominal", "table", "model")),
    "bits/",
    "training/",
    "reconstruction/psnr_lost_",
    "shapes/image_bits",
    *("information/token_", "information/residual_bits"),
    *(f"toy/{name}" for name in ("parameters", "outside", "gradient")),
    *("legibility/bits_per_glyph", "legibility/text_bits_per_glyph"),
    "cost/best_batch",
    "understanding/pairs_told_apart",
    *(f"generation/{name}" for name in ("model_bits", "guidance", "nearest_train_distance")),
)


@pytest.mark.parametrize("key", STANDARD)
def test_each_definition_is_complete_and_named_by_its_key(key):
    definition = STANDARD[key]
    assert key.endswith(f"/{definition.name}")
    assert definition.label
    assert "|" not in definition.label + definition.unit  # a table's own separator
    assert definition.version >= 1
    assert definition.protocol
    assert "\n" not in definition.protocol
    assert definition.name.isidentifier()


@pytest.mark.parametrize("key", STANDARD)
def test_only_what_collapse_cannot_improve_has_an_arrow(key):
    assert (STANDARD[key].direction is None) == key.startswith(NO_ARROW)


def test_labels_do_not_repeat_within_a_group():
    for group in {key.split("/")[0] for key in STANDARD}:
        labels = [definition.label for key, definition in STANDARD.items() if key.startswith(f"{group}/")]
        assert len(labels) == len(set(labels))


def test_what_code_statistics_compute_is_defined():
    metric = CodeStatistics((4,))
    metric.update(torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.zeros(1, 2, dtype=torch.int64))
    assert {f"bits/{name}" for name in metric.compute()} <= set(STANDARD)
