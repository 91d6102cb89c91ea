"""The planner of systems too large to run."""

import subprocess
import sys

import pytest

from tokbench import build, cost
from tokbench.plan.__main__ import BAD_INPUT, OK, main
from tokbench.plan.system import planned
from tokbench.roofline import NAMED, Device

WORDS = ("quantizer=vq", "quantizer.codebook_size=8192", "tokenizer.factor=16")
GIVEN = ("image_size=64", "prompt=8", "width=256")
SEVEN = {"image_size": 256, "width": 4096, "depth": 32}


def test_a_seven_billion_system_is_planned_in_no_memory():
    plan = planned("chameleon", SEVEN, WORDS, device=NAMED["h200"], element_bytes=2)
    sizes = cost.Sizes(4096, 32, 16)
    assert plan.parameters == pytest.approx(6.5e9, rel=0.01)
    assert plan.num_tokens == plan.works["prompt"].passes + plan.works["image"].passes == 256
    assert plan.row_bytes == 2 * 32 * 4096 * 2 * (32 + 256)
    flops = sum(work.flops for name, work in plan.works.items() if name != "decoding")
    expected = cost.causal_generation_flops(sizes, prompt=32, num_tokens=256, codebook_size=8192, guided=False)
    assert flops == pytest.approx(expected, rel=1e-6)
    assert plan.training_proxy == pytest.approx(6 * 32 * 12 * 4096**2, rel=0.01)
    assert plan.training_flops_per_token == pytest.approx(plan.training_proxy, rel=0.05)
    weights, room = plan.parameters * 2, plan.best_batch * plan.row_bytes
    assert weights + room <= NAMED["h200"].memory < weights + 2 * room
    assert plan.at(1).name != plan.at(plan.best_batch).name == "compute"


def test_at_batch_one_a_pass_over_the_image_costs_a_gpu_little_more_than_one_token_and_less_throughput():
    """SYSTEMS.md section 3: the order of next-token prediction and diffusion flips between latency and throughput."""
    causal, denoise = (
        planned(name, {**SEVEN, "steps": 50}, WORDS, device=NAMED["h200"], element_bytes=2)
        for name in ("chameleon", "transfusion")
    )
    assert denoise.at(1).seconds < causal.at(1).seconds
    batch = min(causal.best_batch, denoise.best_batch)
    assert causal.at(batch).seconds < denoise.at(batch).seconds


def test_patches_of_latents_take_fewer_places():
    """Transfusion-7B reads 2 x 2 patches of latents (arXiv:2408.11039): a quarter of the tokens and of their cache."""
    given = {**SEVEN, "prompt": 1}
    one, two = (
        planned("transfusion", given, [*WORDS, *patch], device=NAMED["h200"], element_bytes=2)
        for patch in ((), ("+generation.scheme.patch=2",))
    )
    assert (one.num_tokens, two.num_tokens) == (256, 64)
    assert one.row_bytes - two.row_bytes == 2 * 32 * 4096 * 2 * (256 - 64)
    sizes = cost.Sizes(4096, 32, 4 * 16)
    assert two.parameters - one.parameters == 2 * 4096 * 3 * 16
    row = cost.training_flops(sizes, text=1, num_tokens=64, image_head=4 * 16)
    assert two.training_flops_per_token == row / (1 + 64 + cost.SPECIALS)
    passes = two.works["image"].passes
    flops = sum(two.works[name].flops for name in ("prompt", "image"))
    assert flops == cost.denoise_generation_flops(sizes, prompt=1, num_tokens=64, steps=passes, guided=False)
    assert two.works["decoding"] == one.works["decoding"]


@pytest.mark.parametrize(
    ("preset", "words", "passes"),
    [
        ("showo", ["steps=8"], 1 + 8),
        ("mar", ["steps=8"], 1 + 8),
        ("transfusion", ["steps=8"], 1 + 8),
        ("showo", ["steps=8", "generation.scheme.rounds=4"], 1 + 4),
        ("chameleon", ["steps=8"], 1 + 255),
    ],
)
def test_steps_are_those_of_a_sampler_or_the_rounds(preset, words, passes, capsys):
    quantizer = "continuous_8" if preset == "mar" else "vq"
    sizes = ["width=256", "depth=2", "device=h200", f"quantizer={quantizer}", "tokenizer.factor=16"]
    assert main([f"generation={preset}", *sizes, *words]) == OK
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].split("|")]
    assert cells[3:5] == ["256", str(passes)]


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["generation=chameleon"], ["not given: image_size=256 prompt=32, width=128 depth=3 heads=2 of budget=cpu"]),
        (
            ["generation=chameleon", "budget=smoke", "image_size=64", "prompt=8", "width=256"],
            ["not given: depth=1 of budget=smoke"],
        ),
        (["generation=chameleon", *GIVEN, "backbone.depth=2", "backbone.heads=4"], []),
        (["generation=chameleon", *GIVEN, "budget.backbone.depth=2", "budget.backbone.heads=4"], []),
        (
            ["generation=transfusion,showo", *GIVEN, "depth=2"],
            [
                "transfusion: 16 steps (budget=cpu; steps=N sets others)",
                "showo: 16 rounds (generation=showo; steps=N sets others)",
            ],
        ),
        (["generation=transfusion,showo", *GIVEN, "depth=2", "steps=8"], ["transfusion: 8 steps", "showo: 8 rounds"]),
        (["generation=showo", *GIVEN, "depth=2", "generation.scheme.rounds=4"], ["showo: 4 rounds"]),
        (
            ["generation=showo", *GIVEN, "depth=2", "budget.evaluation.denoise_steps=4"],
            ["showo: 16 rounds (generation=showo; steps=N sets others)"],
        ),
        (
            ["generation=mar", "quantizer=continuous_4", *GIVEN, "depth=2", "steps=8"],
            ["mar: 8 rounds, 50 steps of its head (generation.head.steps=N sets others)"],
        ),
        (
            ["generation=transfusion", *GIVEN, "depth=2", "budget.evaluation.denoise_steps=4"],
            ["transfusion: 4 steps"],
        ),
    ],
)
def test_what_was_not_given_is_told_with_where_it_comes_from(words, lines, capsys):
    assert main([*words, "device=h200"]) == OK
    assert capsys.readouterr().out.split("guidance 1\n")[1].splitlines() == lines


def test_a_system_that_does_not_fit_says_so(capsys):
    small = ["flops=1e12", "bandwidth=1e11", "launch=1e-5", "memory=1e6"]
    assert main(["generation=transfusion", "width=256", "depth=2", *small]) == OK
    out = capsys.readouterr().out
    assert "NA (does not fit)" in out
    assert "as given: 1 T FLOPs/s, 100 GB/s, 10 us a block" in out
    room = Device("small", 1e12, 1e11, 1e-5, 1e6)
    assert planned("transfusion", {"width": 256, "depth": 2}, [], device=room, element_bytes=2).best_batch == 0


def test_a_named_device_can_be_changed(capsys):
    assert main(["generation=chameleon", "width=256", "depth=2", "device=h100", "flops=1e12"]) == OK
    assert "H100 SXM, changed: 1 T FLOPs/s, 3.35e+03 GB/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generation=chameleon", "width=0"], "width must be a whole number >= 1, got '0'"),
        (["depth=half"], "depth must be a whole number >= 1, got 'half'"),
        (["generation=nonsense"], "generation has no option 'nonsense' (python -m tokbench.list names them all)"),
        (["generation=both"], "generation must name single presets"),
        (["generation=givt", "head@generation.head=nosuch"], "head has no option 'nosuch' (it has bins, "),
        (
            ["generation=chameleon", "+generation.scheme.order=raster"],
            "generation.scheme.order is set already: leave its + ",
        ),
        (["device=abacus"], "device must be one of a100, h100, h200, rtx4090, got 'abacus'"),
        (["device=h20"], "device must be one of a100, h100, h200, rtx4090, got 'h20'; did you mean 'h200'?"),
        (["flops=-1"], "flops must be a number > 0, got '-1'"),
        (["flops=many"], "flops must be a number > 0, got 'many'"),
        (["width"], "arguments must be KEY=VALUE, got 'width'"),
        (["generation=chameleon", "no.such=1"], "no setting named no.such"),
        (["generation=chameleon", "image_size=255"], "image size must be divisible by factor = 4"),
        (["generation=chameleon", "quantizer=continuous_4"], "the tokenizer is continuous"),
        (
            ["generation=transfusion", "image_size=128", "+generation.scheme.patch=3"],
            "got patch 3 and tokens of shape (32, 32)",
        ),
        (["generation=chameleon", "+generation.scheme.patch=2"], "Causal has no argument 'patch'"),
        (["generation=showo", "steps=5000"], "rounds must be in 1..4096, the tokenizer's image tokens, got 5000"),
        (["width=100", "heads=3"], "width must be a multiple of 2 * heads"),
        (["generation=showo", "generation.scheme.rounds=abc"], "Masked must be a whole number, got 'abc'"),
        (
            ["generation=chameleon", "backbone.heads=0"],
            "backbone.heads must be a whole number >= 1, got 0",
        ),
        (
            ["generation=chameleon", "budget.backbone.heads=0"],
            "budget.backbone.heads must be a whole number >= 1, got 0",
        ),
        (["generation=transfusion", "+generation.scheme.patch=2.0"], "patch must be a whole number, got 2.0"),
        (["generation=transfusion", "generation.scheme.steps=2.5"], "Denoise must be a whole number, got 2.5"),
        (
            ["generation=transfusion", "budget.evaluation.denoise_steps=0"],
            "denoise_steps must be a whole number >= 1, got 0",
        ),
        (["generation=chameleon", "generation.scheme.temperature=nan"], "Causal must be a finite number, got nan"),
    ],
)
def test_wrong_input_is_told_in_one_line(words, message, capsys):
    assert main([*words, *([] if any("device" in word for word in words) else ["device=h200"])]) == BAD_INPUT
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_help_lists_the_devices_and_no_words_are_no_plan(capsys):
    assert main(["--help"]) == OK
    assert main([]) == BAD_INPUT
    assert capsys.readouterr().out.count("a100, h100, h200, rtx4090") == 2


def test_the_command_is_tokbench_cost():
    words = ["generation=chameleon", "width=256", "depth=2", "device=a100"]
    done = subprocess.run(
        [sys.executable, "-m", "tokbench.cost", *words], capture_output=True, text=True, cwd=build.ROOT, check=False
    )
    assert done.returncode == OK, done.stderr
    assert "| chameleon |" in done.stdout
