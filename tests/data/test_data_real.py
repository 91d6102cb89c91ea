"""The loaders on real sets, and what CIFAR-10's says when it cannot have its files."""

import json
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from tokbench.data import cifar10, folder
from tokbench.data.common import fingerprint

PACKS = Path(__file__).resolve().parents[3] / "shared" / "data"
SMALL = {"size": 32, "num_train": 300, "num_validation": 200, "num_test": 100, "seed": 0}
FOLDER = {"size": 64, "on_error": "raise", "validation_fraction": 0.1, "test_fraction": 0.1, "seed": 0}


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """A function from the name of a set to the folder it is unpacked in."""
    if not (PACKS / "unpack").is_file():
        pytest.skip(f"real image sets are not there: {PACKS}")
    destination = tmp_path_factory.mktemp("real")

    def unpack(name: str) -> Path:
        subprocess.run([sys.executable, PACKS / "unpack", destination, name], check=True, capture_output=True)
        return destination

    return unpack


def test_cifar10(real):
    root = str(real("cifar10"))
    data = cifar10.load(root=root, **{**SMALL, "num_train": None, "num_test": None})
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 49800,
        "validation": 200,
        "test": 10000,
        "generation": 10000,
    }
    assert data.ranked
    assert data.class_names[:3] == ("airplane", "automobile", "bird")
    groups = torch.cat([split.groups for split in (data.train, data.validation, data.test)])
    assert groups.sort().values.tolist() == list(range(60000))
    official = CIFAR10(root, train=True)
    for i in (0, 1, 2):
        image, label = official[int(data.train.groups[i])]
        assert np.array_equal(data.train.images[i].permute(1, 2, 0).numpy(), np.asarray(image))
        assert (data.train.labels[i], data.train.captions[i]) == (label, data.class_names[label])
    small, other = cifar10.load(root=root, **SMALL), cifar10.load(root=root, **{**SMALL, "seed": 1})
    assert torch.equal(small.train.images, data.train.images[:300])
    assert fingerprint(small.validation) == fingerprint(data.validation) != fingerprint(other.validation)
    assert fingerprint(small.test) == fingerprint(other.test)
    assert torch.equal(small.test.images, data.test.images[:100])


def test_emoji_with_metadata_in_split_folders(real):
    root = real("emoji64") / "emoji64"
    data = folder.load(root=str(root), **FOLDER)
    assert [len(split) for split in data.splits.values()] == [2923, 325, 295, 295]
    assert data.name == "folder-emoji64"
    row = json.loads((root / "test" / "metadata.jsonl").read_text(encoding="utf-8").split("\n")[0])
    image = data.test.images[data.test.captions.index(row["text"])]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(Image.open(root / "test" / row["file_name"])))


def test_imagenette_with_class_folders_in_train_and_val(real):
    data = folder.load(root=str(real("imagenette64") / "imagenette64"), **FOLDER)
    assert [len(split) for split in data.splits.values()] == [2700, 300, 1000, 1000]
    assert len(data.class_names) == 10
    assert "garbage truck" in data.class_names
    assert torch.bincount(data.test.labels).tolist() == [100] * 10


def test_cifar10_names_a_missing_root(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root must be a folder that holds cifar-10-batches-py/, got .*nowhere"):
        cifar10.load(root=str(tmp_path / "nowhere"), **SMALL)


def test_cifar10_names_damaged_files(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match=r"data\.root: files in .*cifar-10-batches-py differ"):
        cifar10.load(root=str(tmp_path), **SMALL)


def test_cifar10_says_so_when_it_cannot_be_downloaded(tmp_path, monkeypatch):
    def refuse(self):
        raise URLError("no\nnetwork")

    monkeypatch.setenv("TOKBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(CIFAR10, "download", refuse)
    with pytest.raises(
        ValueError, match=r"data\.root=null downloads CIFAR-10 to .*no network.*set data\.root"
    ) as caught:
        cifar10.load(root=None, **SMALL)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 64}, r"data\.size must be 32 for cifar10, got 64"),
        ({"num_train": 49900}, r"data\.num_train \+ data\.num_validation must be <= 50000, got 49900 \+ 200"),
        ({"num_test": 10001}, r"data\.num_test must be <= 10000, got 10001"),
        ({"num_validation": 0}, r"data\.num_validation must be >= 1, got 0"),
    ],
)
def test_cifar10_names_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        cifar10.load(root="unused", **{**SMALL, **changes})
