import hashlib
import io

import pytest
import torch

from tokbench import judges, judges_training
from tokbench.interfaces import Split
from tokbench.judges import Classifier, ColourClassifier, accuracy, folding, train_classifier

OPTIONS = {"width": 8, "steps": 25, "seed": 0, "fingerprint": "stripes"}


def stripes(count: int, seed: int, side: int = 16) -> Split:
    """Horizontal (0) or vertical (1) stripes of any colour: a class that colour alone cannot tell."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    waves = (torch.arange(side) // 2 % 2).float()
    flat = torch.where(labels.view(-1, 1, 1, 1) == 0, waves.view(1, 1, -1, 1), waves.view(1, 1, 1, -1))
    colours = torch.rand(count, 3, 1, 1, generator=generator)
    images = (flat.expand(count, 1, side, side) * colours * 255).to(torch.uint8)
    return Split(images, ("",) * count, labels, torch.arange(count))


def tinted(count: int, seed: int) -> Split:
    """Noise whose mean colour names its class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    images = torch.randint(0, 128, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images[torch.arange(count), labels] += 100
    return Split(images, ("",) * count, labels, torch.arange(count))


def unlabelled(split: Split) -> Split:
    return Split(split.images, split.captions, None, split.groups)


@pytest.fixture(scope="module")
def trained() -> Classifier:
    return train_classifier(stripes(400, 0), stripes(50, 1), 2, cache=None, **OPTIONS)


def test_the_classifier_learns_what_colour_cannot_tell(trained):
    test = stripes(200, 2)
    assert accuracy(trained.predict(test.images, batch=64), test) > 0.95
    assert trained.validation_accuracy > 0.95
    assert ColourClassifier(stripes(400, 0), 2).accuracy(test) < 0.7


def test_the_colour_classifier_learns_what_colour_tells():
    assert ColourClassifier(tinted(300, 0), 3).accuracy(tinted(100, 1)) > 0.95


def test_features_do_not_depend_on_the_batch_and_are_frozen(trained):
    images = stripes(20, 3).images
    whole, parts = (trained.features(images, batch=batch) for batch in (20, 7))
    assert whole.shape == (20, trained.num_features)
    torch.testing.assert_close(whole, parts)
    assert not trained.training
    assert not any(parameter.requires_grad for parameter in trained.parameters())


def test_training_is_fixed_by_its_seed_and_leaves_the_global_generator_alone(trained):
    state = torch.get_rng_state()
    again = train_classifier(stripes(400, 0), stripes(50, 1), 2, cache=None, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), state)
    other = train_classifier(stripes(400, 0), stripes(50, 1), 2, cache=None, **{**OPTIONS, "steps": 2, "seed": 1})
    assert again.weights_sha256 == trained.weights_sha256 != other.weights_sha256


def test_a_second_call_reads_the_cache(tmp_path, monkeypatch):
    options = {**OPTIONS, "steps": 2, "cache": tmp_path / "judges"}
    first = train_classifier(stripes(60, 0), stripes(50, 1), 2, **options)
    assert [path.suffix for path in (tmp_path / "judges").iterdir()] == [".pt"]
    monkeypatch.setattr(judges, "_fit", lambda *args, **kwargs: pytest.fail("trained again"))
    second = train_classifier(stripes(60, 0), stripes(50, 1), 2, **options)
    assert second.weights_sha256 == first.weights_sha256
    assert second.validation_accuracy == first.validation_accuracy


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 3}, {"width": 9}, {"fingerprint": "other"}])
def test_anything_that_makes_the_judge_names_its_file(tmp_path, change):
    options = {**OPTIONS, "steps": 2, "cache": tmp_path}
    for changed in (options, {**options, **change}):
        train_classifier(stripes(60, 0), stripes(50, 1), 2, **changed)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_cache_is_named_and_trained_again(tmp_path):
    options = {**OPTIONS, "steps": 2, "cache": tmp_path}
    first = train_classifier(stripes(60, 0), stripes(50, 1), 2, **options)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damage in (b"", whole[:100], whole[:-9] + b"x" + whole[-8:]):
        path.write_bytes(damage)
        with pytest.warns(UserWarning, match=path.name):
            again = train_classifier(stripes(60, 0), stripes(50, 1), 2, **options)
        assert again.weights_sha256 == first.weights_sha256
        assert path.read_bytes() == whole


def test_a_set_without_classes_is_refused():
    labelled = stripes(20, 0)
    bare = unlabelled(labelled)
    with pytest.raises(ValueError, match="train must have labels"):
        train_classifier(bare, labelled, 2, cache=None, **OPTIONS)
    with pytest.raises(ValueError, match="validation must have labels"):
        train_classifier(labelled, bare, 2, cache=None, **OPTIONS)
    with pytest.raises(ValueError, match="no classes"):
        ColourClassifier(bare, 2)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        train_classifier(labelled, labelled, 1, cache=None, **OPTIONS)


@pytest.mark.parametrize(
    ("sides", "factor"), [((32, 32), 2), ((64, 64), 4), ((28, 28), 1), ((48, 32), 2), ((50, 50), 2), ((8, 8), 1)]
)
def test_images_are_folded_to_about_sixteen_pixels(sides, factor):
    assert folding(*sides) == factor
    network = Classifier(3, width=4, height=sides[0], image_width=sides[1])
    assert network(torch.zeros(2, 3, *sides, dtype=torch.uint8)).shape == (2, 3)


def test_images_too_small_to_pool_are_refused():
    with pytest.raises(ValueError, match=">= 4"):
        folding(3, 16)


def test_a_published_judge_is_used_before_the_cache_and_a_damaged_one_is_named(tmp_path, monkeypatch):
    options = {**OPTIONS, "steps": 2}
    splits = stripes(60, 0), stripes(50, 1), 2
    first = train_classifier(*splits, cache=tmp_path / "published", **options)
    monkeypatch.setattr(judges_training, "PUBLISHED", tmp_path / "published")
    with monkeypatch.context() as patched:
        patched.setattr(judges, "_fit", lambda *args, **kwargs: pytest.fail("trained"))
        found = train_classifier(*splits, cache=tmp_path / "cache", **options)
    assert found.weights_sha256 == first.weights_sha256
    assert not (tmp_path / "cache").exists()
    (path,) = (tmp_path / "published").glob("*.pt")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=path.name):
        train_classifier(*splits, cache=tmp_path / "cache", **options)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("path", sorted(judges_training.PUBLISHED.glob("*.pt")), ids=lambda path: path.name)
def test_published_judges_are_whole(path):
    content = path.read_bytes()
    assert hashlib.sha256(content[32:]).digest() == content[:32]
    assert 0 < torch.load(io.BytesIO(content[32:]), weights_only=True)["validation_accuracy"] <= 1


def test_judges_are_published():
    assert len(list(judges_training.PUBLISHED.glob("classifier-*.pt"))) >= 2
