"""A user's folder- captions, classes, splits, and one clear error for each thing that can be wrong with it."""

import json

import pytest
import torch
from PIL import Image

from tokbench.data import folder
from tokbench.data.common import fingerprint


def load(root, **changes):
    options = {"size": 8, "on_error": "raise", "validation_fraction": 0.2, "test_fraction": 0.3, "seed": 0}
    return folder.load(root=str(root), **{**options, **changes})


def paint(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8), (value, 0, 0)).save(path)


def describe(directory, texts):
    lines = [json.dumps({"file_name": name, "text": text}, ensure_ascii=False) for name, text in texts.items()]
    (directory / "metadata.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def values(split):
    """The red of each image: which file it is."""
    return split.images[:, 0, 0, 0].tolist()


@pytest.fixture
def flat(tmp_path):
    for i in range(10):
        paint(tmp_path / f"{i}.png", i)
    return tmp_path


def test_a_flat_folder_has_neither_captions_nor_classes(flat):
    data = load(flat)
    assert data.name == f"folder-{flat.name}"
    assert data.ranked
    assert data.class_names == ()
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 5,
        "validation": 2,
        "test": 3,
        "generation": 3,
    }
    assert data.train.images.shape == (5, 3, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert set(data.train.captions) == {""}
    assert data.train.labels is None
    assert data.generation is data.test


def test_each_image_is_in_one_split_and_its_own_group(flat):
    data = load(flat)
    parts = (data.train, data.validation, data.test)
    assert sorted(value for part in parts for value in values(part)) == list(range(10))
    assert sorted(group for part in parts for group in part.groups.tolist()) == list(range(10))


def test_the_division_is_fixed_by_its_seed(flat):
    prints = [[fingerprint(split) for split in load(flat, seed=seed).splits.values()] for seed in (0, 0, 1)]
    assert prints[0] == prints[1]
    assert prints[0][0] != prints[2][0]


def test_class_folders_give_captions_and_labels(tmp_path):
    for i in range(6):
        paint(tmp_path / ("golden_retriever" if i % 2 else "air-plane") / "deeper" / f"{i}.png", i)
    data = load(tmp_path)
    assert data.class_names == ("air plane", "golden retriever")
    for split in data.splits.values():
        assert split.labels.tolist() == [value % 2 for value in values(split)]
        assert split.captions == tuple(data.class_names[label] for label in split.labels)


@pytest.mark.parametrize("middle", ["val", "valid", "validation"])
def test_split_folders_are_used(tmp_path, middle):
    for i, part in enumerate(["train"] * 4 + [middle] * 2 + ["test"] * 3):
        paint(tmp_path / part / "cat" / f"{i}.png", i)
    data = load(tmp_path)
    assert sorted(values(data.train)) == [0, 1, 2, 3]
    assert sorted(values(data.validation)) == [4, 5]
    assert sorted(values(data.test)) == sorted(values(data.generation)) == [6, 7, 8]
    assert data.class_names == ("cat",)


@pytest.mark.parametrize(
    ("second", "sizes"), [("test", (8, 2, 3)), ("val", (8, 2, 3)), (None, (5, 2, 3))], ids=["test", "val", "neither"]
)
def test_a_missing_split_is_taken_off_train_and_val_alone_judges(tmp_path, second, sizes):
    for i in range(10):
        paint(tmp_path / "train" / f"{i}.png", i)
    for i in range(10, 13 if second else 10):
        paint(tmp_path / second / f"{i}.png", i)
    data = load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    assert not second or sorted(values(data.test)) == [10, 11, 12]


def test_metadata_gives_captions(flat):
    describe(flat, {f"{i}.png": f"number {i}: ü\u2028" for i in range(10)})
    data = load(flat)
    for split in data.splits.values():
        assert split.captions == tuple(f"number {value}: ü\u2028" for value in values(split))
        assert split.labels is None
    assert data.class_names == ()


@pytest.mark.parametrize("inside", [True, False])
def test_metadata_in_or_above_split_folders(tmp_path, inside):
    for i, part in enumerate(["train"] * 3 + ["validation"] + ["test"] * 2):
        paint(tmp_path / part / f"{i}.png", i)
    for part, own in {"train": (0, 1, 2), "validation": (3,), "test": (4, 5)}.items():
        if inside:
            describe(tmp_path / part, {f"{i}.png": f"number {i}" for i in own})
    if not inside:
        describe(
            tmp_path,
            {f"{'train' if i < 3 else 'validation' if i < 4 else 'test'}/{i}.png": f"number {i}" for i in range(6)},
        )
    data = load(tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 1, 2)
    for split in data.splits.values():
        assert split.captions == tuple(f"number {value}" for value in values(split))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", r"metadata\.jsonl line 2 must be one JSON object"),
        ('{"file_name": "1.png"}', r"metadata\.jsonl line 2 must have the strings file_name and text"),
        ('{"text": "one"}', r"metadata\.jsonl line 2 must have the strings file_name and text"),
        ('["1.png", "one"]', r"metadata\.jsonl line 2 must have the strings file_name and text"),
        ('{"file_name": "1.png", "text": 1}', r"metadata\.jsonl line 2 must have the strings file_name and text"),
        ('{"file_name": "gone.png", "text": "one"}', r"metadata\.jsonl line 2: there is no file 'gone\.png'"),
        (
            '{"file_name": "0.png", "text": "again"}',
            r"metadata\.jsonl line 2: file_name '0\.png' has a caption already",
        ),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_wrong_line_of_metadata_is_named(flat, line, message, on_error):
    (flat / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "zero"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        load(flat, on_error=on_error)


def test_an_image_without_a_line_is_named(flat):
    describe(flat, {f"{i}.png": "number" for i in range(9)})
    with pytest.raises(ValueError, match=r"9\.png has no line in metadata\.jsonl"):
        load(flat)


@pytest.mark.parametrize("name", ["notes.txt", "broken.png", "train.csv"])
def test_a_file_that_is_no_image_is_named_or_counted(flat, name):
    (flat / name).write_text("hello")
    with pytest.raises(ValueError, match=rf"{name} cannot be read.*on_error=skip"):
        load(flat)
    data = load(flat, on_error="skip")
    assert data.skipped == 1
    assert sum(len(split) for split in (data.train, data.validation, data.test)) == 10


def test_hidden_files_and_folders_are_passed_over(flat):
    (flat / ".DS_Store").write_text("hidden")
    paint(flat / ".thumbnails" / "0.png")
    assert load(flat).skipped == 0


def test_a_missing_empty_or_wrong_root_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root must be a folder of images, got .*nowhere, which is missing"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"data\.root must hold images, got .* with 0 files"):
        load(tmp_path)
    (tmp_path / "file").write_text("hello")
    with pytest.raises(ValueError, match=r"data\.root must be a folder of images, got .*file, which is a file"):
        load(tmp_path / "file")
    with pytest.raises(ValueError, match=r"data\.root must hold images, got .* with 1 files"):
        load(tmp_path, on_error="skip")


def test_too_few_images_to_divide(tmp_path):
    paint(tmp_path / "0.png")
    paint(tmp_path / "1.png")
    with pytest.raises(ValueError, match="enough images for train, validation and test, got 2"):
        load(tmp_path)
    paint(tmp_path / "2.png")
    assert [len(split) for split in load(tmp_path).splits.values()] == [1, 1, 1, 1]


def test_misplaced_images_are_named(tmp_path):
    paint(tmp_path / "cat" / "0.png")
    paint(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1\.png lies beside class folders"):
        load(tmp_path)
    paint(tmp_path / "test" / "2.png")
    with pytest.raises(ValueError, match=r"data\.root must have images in train/ .*\(test\)"):
        load(tmp_path)
    paint(tmp_path / "train" / "3.png")
    with pytest.raises(ValueError, match=r"1\.png lies in none of the split folders"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_error": "ignore"}, r"data\.on_error must be raise or skip, got ignore"),
        ({"size": 0}, r"data\.size must be >= 1, got 0"),
        ({"test_fraction": 0.9}, r"must be > 0 with a sum < 1, got 0\.2 and 0\.9"),
        ({"validation_fraction": 0.0}, r"must be > 0 with a sum < 1, got 0\.0 and 0\.3"),
    ],
)
def test_wrong_options_are_named(flat, changes, message):
    with pytest.raises(ValueError, match=message):
        load(flat, **changes)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.png").write_bytes(b"not for this set")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "x.png").symlink_to(outside / "secret.png")
    with pytest.raises(ValueError, match=r"a/x\.png is a link that leaves data\.root"):
        folder.find(root)
    (root / "a" / "x.png").unlink()
    (root / "b").symlink_to(outside)
    with pytest.raises(ValueError, match=r"/b is a link that leaves data\.root"):
        folder.find(root)
    (root / "b").unlink()
    (root / "a" / "up").symlink_to(root)
    with pytest.raises(ValueError, match="is a link to a folder that holds it"):
        folder.find(root)
    (root / "a" / "up").unlink()
    (root / "a" / "x.png").write_bytes(b"")
    (root / "a" / "same.png").symlink_to(root / "a" / "x.png")
    assert [str(path) for path in folder.find(root)[0]] == ["a/same.png", "a/x.png"]
