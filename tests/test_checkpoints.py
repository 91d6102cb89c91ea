"""A training that is cut short and goes on gives the bits of one that never was."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tokbench import checkpoints
from tokbench.checkpoints import Checkpoint
from tokbench.quantizers.vq import VectorQuantizer
from tokbench.train import Training, fit
from tokbench.training_module import Diverged

STEPS = 30


class Cut(BaseException):
    """Stands for the kill."""


class Model(nn.Module):
    """All the kinds of state there are: weights, running means, restarts, dropout from the global generator."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.encoder, self.dropout = nn.Linear(6, 4), nn.Dropout(0.3)
        options = {"init": "kmeans", "ema_decay": 0.8, "restart_below": 0.5, "restart_decay": 0.5}
        self.quantizer = VectorQuantizer(dim=4, codebook_size=24, beta=0.25, estimator="rotation", **options)

    def forward(self, x: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        z = self.encoder(self.dropout(x)) + 0.1 * torch.randn(len(x), 4, generator=noise)
        quantized = self.quantizer(z[:, None])
        return {"error": (quantized.z_q - 1).square().mean(), "commitment": quantized.losses["commitment"]}


def run(path: Path | None, *, cut_at: int | None = None, steps: int = STEPS, micro: int = 1) -> tuple[Model, Training]:
    model, calls = Model(), 0
    noise = torch.Generator().manual_seed(7)
    held_out = torch.randn(64, 6, generator=torch.Generator().manual_seed(8))

    def loss(x: Tensor) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == cut_at:
            raise Cut
        return model(x, noise)

    def validation() -> float:
        return model(held_out, torch.Generator().manual_seed(0))["error"].item()

    options = {"steps": steps, "lr": 0.05, "weight_decay": 0.1, "clip": 1.0, "seed": 0, "micro_batches": micro}
    training = fit(
        model,
        loss,
        lambda generator: torch.randn(16, 6, generator=generator),
        validation=validation,
        checkpoint=path,
        generators=(noise,),
        **options,  # type: ignore[arg-type]
    )
    return model, training


@pytest.fixture(autouse=True)
def at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))


def same(one: tuple[Model, Training], two: tuple[Model, Training]) -> bool:
    weights = zip(one[0].state_dict().values(), two[0].state_dict().values(), strict=True)
    curves = [(t.losses, t.validation, t.best_step) for _, t in (one, two)]
    return all(torch.equal(a, b) for a, b in weights) and curves[0] == curves[1]


@pytest.mark.parametrize("cuts", [[1], [2], [14], [29, 1, 1], [7, 7, 7, 7]])
def test_a_training_cut_at_any_step_ends_with_the_same_bits(tmp_path: Path, cuts: list[int]) -> None:
    whole = run(None)
    after = torch.rand(1)
    for cut in cuts:
        with pytest.raises(Cut):
            run(tmp_path / "state", cut_at=cut)
    again = run(tmp_path / "state")
    assert same(whole, again)
    assert torch.equal(torch.rand(1), after), "what is drawn after the training must be the same as well"


def test_writing_changes_nothing_and_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    whole, kept = run(None), run(tmp_path / "state")
    assert same(whole, kept)
    after = torch.rand(1)
    assert same(whole, run(tmp_path / "state", cut_at=1))
    assert torch.equal(torch.rand(1), after)
    assert run(tmp_path / "state")[1].seconds > 0.5 * kept[1].seconds, "the time before the cut counts"


def test_a_short_training_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS", 1000.0)
    run(tmp_path / "state")
    assert not list(tmp_path.iterdir())


def test_a_divergence_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Model.forward, iter(range(1000))

    def diverge(self: Model, x: Tensor, noise: torch.Generator) -> dict[str, Tensor]:
        return {k: v * (torch.nan if next(calls) > 20 else 1) for k, v in original(self, x, noise).items()}

    monkeypatch.setattr(Model, "forward", diverge)
    with pytest.raises(Diverged):
        run(tmp_path / "state")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_said_and_not_used(tmp_path: Path, capsys, content: bytes | None) -> None:
    path = tmp_path / "state"
    with pytest.raises(Cut):
        run(path, cut_at=10)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert same(run(None), run(path))
    assert f"checkpoint {path} cannot be read, training starts again" in capsys.readouterr().err


def test_a_checkpoint_cannot_name_code_to_run(tmp_path: Path, capsys) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return Path.touch, (ran,)

    torch.save({"history": Evil()}, tmp_path / "state")
    assert Checkpoint(tmp_path / "state").read() is None
    assert not ran.exists()
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("micro", [2, 4])
def test_a_batch_in_parts_takes_the_step_of_the_whole(micro: int) -> None:
    torch.manual_seed(0)
    start = nn.Linear(6, 3)
    found = []
    for parts in (1, micro):
        model = nn.Linear(6, 3)
        model.load_state_dict(start.state_dict())
        fit(
            model,
            lambda x, model=model: {"error": (model(x) - x[:, :3]).square().mean()},
            lambda generator: torch.randn(16, 6, generator=generator),
            validation=lambda: 0.0,
            steps=12,
            lr=0.05,
            weight_decay=0.1,
            clip=0.5,
            seed=0,
            validations=3,
            micro_batches=parts,
        )
        found.append(model.weight)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_a_training_in_parts_goes_on_between_steps_only(tmp_path: Path) -> None:
    whole = run(None, micro=4)
    with pytest.raises(Cut):
        run(tmp_path / "state", micro=4, cut_at=26)
    assert same(whole, run(tmp_path / "state", micro=4))
    assert len(whole[1].losses) == STEPS
    assert whole[1].micro_batches == 4


def test_parts_of_a_batch_must_be_equal() -> None:
    with pytest.raises(ValueError, match="batch must divide into 3 equal parts, got 16"):
        run(None, micro=3)
