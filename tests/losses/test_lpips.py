"""LPIPS against torchmetrics' own, on backbones of random weights: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torchmetrics.functional.image import lpips as reference

from tokbench import build
from tokbench.losses.lpips import BACKBONES, LPIPS


def backbone(name: str) -> torch.nn.Sequential:
    """Its layers with random weights, always the same."""
    torch.manual_seed(0)
    models = torchvision.models
    return models.AlexNet().features if name == "alexnet" else models.vgg.make_layers(models.vgg.cfgs["D"])


def written(name: str, folder: Path) -> Path:
    """The folder with a user's weights: those of a random backbone, and LPIPS' published ones on top."""
    own, on_top = BACKBONES[name].files
    torch.save({f"features.{k}": v for k, v in backbone(name).state_dict().items()}, folder / own)
    published = Path(reference.__file__).parent / "lpips_models" / on_top
    (folder / on_top).write_bytes(published.read_bytes())
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written("alexnet", tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("name", BACKBONES)
def test_the_distance_is_torchmetrics(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = LPIPS(backbone=name, root=str(written(name, tmp_path)), weights_sha256=None)
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda net, pretrained: backbone(name))
    theirs = reference._LPIPS(pretrained=True, net={"vgg16": "vgg", "alexnet": "alex"}[name], pnet_rand=True)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(3, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2))
    expected = theirs.eval()(a, b).mean()
    assert mine(a, b).item() == pytest.approx(expected.item(), rel=1e-4)
    assert mine(a, a).item() == 0
    assert mine.features == name
    x = (a / 2).requires_grad_(True)
    (gradient,) = torch.autograd.grad(mine(x, a), x)
    assert gradient.abs().sum() > 0
    assert not any(p.requires_grad for p in mine.parameters())


def test_the_weights_are_told_by_their_contents_and_held_to_it(files: Path) -> None:
    name, folder = "alexnet", files
    found = LPIPS(backbone=name, root=str(folder), weights_sha256=None).weights_sha256
    assert LPIPS(backbone=name, root=str(folder), weights_sha256=found).weights_sha256 == found
    with pytest.raises(ValueError, match=f"weights_sha256 must be that of .*, {found}, got 00"):
        LPIPS(backbone=name, root=str(folder), weights_sha256="00")


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_without_weights_the_error_says_which_files_and_that_none_is_fetched(root: str | None) -> None:
    with pytest.raises(
        ValueError, match=r"folder with vgg16-397923af.pth and vgg.pth, .* never downloaded; .*PerceptualSimilarity"
    ):
        LPIPS(backbone="vgg16", root=root, weights_sha256=None)
    with pytest.raises(ValueError, match="backbone must be one of vgg16, alexnet, got 'resnet'"):
        LPIPS(backbone="resnet", root=root, weights_sha256=None)


def test_files_that_hold_something_else_are_named(files: Path, tmp_path: Path) -> None:
    name, folder = "alexnet", files
    own, on_top = BACKBONES[name].files
    (tmp_path / own).write_bytes((folder / on_top).read_bytes())
    (tmp_path / on_top).write_bytes((folder / on_top).read_bytes())
    with pytest.raises(ValueError, match=f"{own} and {on_top} must hold {name}'s weights"):
        LPIPS(backbone=name, root=str(tmp_path), weights_sha256=None)
    (tmp_path / own).write_bytes(b"no weights")
    with pytest.raises(ValueError, match=f"{own} must be a file of weights"):
        LPIPS(backbone=name, root=str(tmp_path), weights_sha256=None)


def test_where_the_files_lie_is_not_hashed_but_what_they_hold_is() -> None:
    here, there = (build.compose(["loss=lpips", f"loss.perceptual.root={root}"]) for root in ("here", "there"))
    assert build.run_hash(here, {}, {}) == build.run_hash(there, {}, {})
    known = build.compose(["loss=vqgan", "loss.perceptual.weights_sha256=abc"])
    assert known["loss"]["adversary"]["start"] == 0.5
    assert build.hashed(known)["loss"]["perceptual"] == {
        "_target_": "tokbench.losses.lpips.LPIPS",
        "backbone": "vgg16",
        "weights_sha256": "abc",
    }
