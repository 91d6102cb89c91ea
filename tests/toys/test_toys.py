"""Known densities are known, rows are equal where they must be, and a tiny run leaves its page."""

import json
import math

import pytest
import torch

from tokbench import build
from tokbench.cost import num_parameters
from tokbench.diffusion import add_noise, cosine
from tokbench.metrics.points import coverage, sliced_wasserstein
from tokbench.records import read_records, write_record
from tokbench.toys import densities, previous
from tokbench.toys.__main__ import main, plan
from tokbench.toys.targets import TARGETS

TOYS = build.compose(["+toys=heads"])["toys"]


def draws(name, count, seed=0):
    return TARGETS[name].draw(count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", list(TARGETS))
def test_targets_are_standardised_and_their_density_is_that_of_their_draws(name):
    target, x = TARGETS[name], draws(name, 40000)
    torch.testing.assert_close(x.mean(0), torch.zeros(2).double(), atol=0.02, rtol=0)
    torch.testing.assert_close(x.std(0), torch.ones(2).double(), atol=0.02, rtol=0)
    middle = torch.arange(-5 + 0.01, 5, 0.02, dtype=torch.float64)
    log_p = target.log_density(torch.cartesian_prod(middle, middle))
    mass = log_p.exp() / 2500
    assert abs(mass.sum().item() - 1) < 2e-2  # the edges of the board lie between the points
    entropy = -(mass * log_p.clamp(min=-1e9)).sum().item()
    assert abs(-target.log_density(x).mean().item() - entropy) < 0.04
    quarter = torch.bincount((x[:, 0] > 0.3).long() * 2 + (x[:, 1] > 0.3).long(), minlength=4) / len(x)
    points = torch.cartesian_prod(middle, middle)
    expected = torch.zeros(4).double().index_add(0, (points[:, 0] > 0.3).long() * 2 + (points[:, 1] > 0.3).long(), mass)
    torch.testing.assert_close(quarter.double(), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", list(TARGETS))
def test_cells_have_equal_mass_and_hold_every_draw(name):
    target = TARGETS[name]
    counts = target.cells(draws(name, 40000)).bincount(minlength=target.num_cells)
    assert counts.sum() == 40000
    assert len(counts) == target.num_cells
    assert (counts / 40000 * target.num_cells - 1).abs().max() < 0.1


def test_all_rows_have_almost_as_many_parameters_as_allowed():
    for node in TOYS["rows"].values():
        width = densities.widest(node, depth=TOYS["depth"], parameters=TOYS["parameters"])
        found, more = (num_parameters(densities.Model(node, width=w, depth=TOYS["depth"])) for w in (width, width + 2))
        assert found <= TOYS["parameters"] < more
        assert found > 0.93 * TOYS["parameters"]
    with pytest.raises(ValueError, match="parameters must be >= "):
        densities.widest(TOYS["rows"]["bins"], depth=2, parameters=100)


def test_distances_of_points():
    x = draws("rings", 1000)
    assert sliced_wasserstein(x, x.flip(0), directions=16) == 0
    moved = x + torch.tensor([0.6, 0.0])
    assert sliced_wasserstein(x, moved, directions=16) == pytest.approx(0.6 / math.sqrt(2))
    with pytest.raises(ValueError, match=r"must both be \(n, 2\)"):
        sliced_wasserstein(x, x[:5], directions=16)


def test_a_cell_with_less_than_half_its_share_is_not_covered():
    cells = torch.tensor([0] * 50 + [1] * 13 + [2] * 12 + [-1] * 25)  # of 100 in 4 cells: half a share is 12.5
    assert coverage(cells, 4) == 0.5


def test_the_weighted_previous_error_is_the_clean_error_plus_what_does_not_depend_on_the_prediction():
    count = 40000
    now, then = (cosine(torch.full((count,), t)) for t in (0.6, 0.5))
    x0 = torch.tensor([[0.8, -0.4]]).expand(count, -1)
    x = add_noise(x0, torch.tensor([[0.3, 1.0]]).expand(count, -1), now)
    guesses = (torch.tensor([[0.0, 0.0]]), torch.tensor([[1.5, 0.5]]))

    def mean(error, guess):
        return error(guess.expand(count, -1), x0, x, now, then, torch.Generator().manual_seed(0)).mean().item()

    clean = [mean(previous.ERRORS["x0"], guess) for guess in guesses]
    weighted = [mean(previous.ERRORS["previous"], guess) for guess in guesses]
    plain = [mean(previous.ERRORS["previous_unweighted"], guess) for guess in guesses]
    assert weighted[0] - weighted[1] == pytest.approx(clean[0] - clean[1], abs=0.03)
    assert weighted[0] > clean[0] + 0.1
    assert plain[0] / weighted[0] == pytest.approx(plain[1] / weighted[1])


def test_the_plan_holds_every_row_once_a_seed():
    made = list(plan(TOYS))
    rows, targets, steps = TOYS["rows"], TOYS["targets"], TOYS["previous"]["diffusion_steps"]
    assert len(made) == len(TOYS["seeds"]) * (len(rows) * len(targets) + len(steps) * len(previous.ERRORS))
    assert len({json.dumps(config, sort_keys=True) for config in made}) == len(made)


def test_a_tiny_run_leaves_a_page_with_verdicts_and_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(previous, "BATCHES", 2)
    words = [
        f"results_dir={tmp_path}",
        "toys.seeds=[0]",
        "toys.targets=[two_modes]",
        "toys.training={steps: 1, batch: 8, lr: 1e-3, weight_decay: 0.0, clip: 1.0}",
        "toys.evaluation={test: 60, samples: 60, validation: 20}",
        "toys.previous.diffusion_steps=[10]",
        "toys.rows.diffusion.steps=2",
        *(f"~toys.rows.{name}" for name in ("mixture_4", "fourier_8", "fourier_32")),
    ]
    assert main(words) == 0
    records = read_records(tmp_path / "toys")
    assert {r.name for r in records} == {"regression", "mixture_64", "bins", "diffusion", *previous.ERRORS}
    by_name = {r.name: r.metrics for r in records}
    assert by_name["diffusion"]["toy/kl_nats"].reason == "no likelihood"
    assert all(by_name[name]["toy/kl_nats"].value > 0 for name in ("regression", "bins", "mixture_64"))
    assert (tmp_path / "heads-toys.csv").read_text().startswith("name,seed,target,diffusion_steps,block,measure")
    assert (tmp_path / "heads-toys.png").stat().st_size > 1000
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "toys").iterdir()}
    for made in records:  # two more seeds that found the same
        for seed in (1, 2):
            write_record(made.model_copy(update={"seed": seed, "files": {}}), tmp_path / "toys")
    assert main(words) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    page = (tmp_path / "heads-toys.md").read_text()
    assert "| bins - least squares, two_modes " in page
    assert "| x_0 - x_(t-1), T = 10 " in page
    (line,) = [line for line in (tmp_path / "claims.md").read_text().splitlines() if line.startswith("| C27 ")]
    assert "heads-toys" in line
