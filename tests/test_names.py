"""What there is, and what a misspelt name was meant to be."""

import subprocess
import sys

import pytest

from tokbench import build, names
from tokbench import list as listing
from tokbench.run import BAD_INPUT, main


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("quantizer=fqs", "quantizer=fqs: did you mean 'fsq'?"),
        ("quantizer=fsq,vq_tunned", "quantizer=vq_tunned: did you mean 'vq_tuned'?"),
        ("experiments=quantizer", "experiments=quantizer: did you mean 'quantizers'?"),
        ("data=cifar", "data=cifar: did you mean 'cifar10'?"),
        ("generation=transfusoin", "generation=transfusoin: did you mean 'transfusion'?"),
        ("budget.tokenizer.step=3", "budget.tokenizer.step: did you mean 'budget.tokenizer.steps'?"),
        ("quantiser=vq", "quantiser: did you mean 'quantizer'?"),
        ("rd.root=/photographs", "rd is null: choose one of its options first, rd=kodak"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_nearest(word: str, line: str) -> None:
    assert list(names.misspelt(["seed=1", word])) == [line]


@pytest.mark.parametrize(
    "words",
    [
        ["quantizer=fsq,vq", "seed=0,1", "budget.tokenizer.steps=3", "tuning=null"],
        ["experiments=text_tax", "generation=showo", "seed=0"],  # composes to no weight of the image
        ["quantizer=vq", "+quantizer.ema_decay=0.9", "quantizer.codebook_size=64", "hydra/launcher=joblib", "-m"],
    ],
)
def test_a_good_command_line_has_no_answer(words: list[str]) -> None:
    assert list(names.misspelt(words)) == []


def test_the_command_line_suggests(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["tokbench.run", "-m", "experiments=defualt"])
    assert main() == BAD_INPUT
    assert capsys.readouterr().err.splitlines()[-1] == "experiments=defualt: did you mean 'default'?"


def test_an_unknown_argument_suggests() -> None:
    with pytest.raises(ValueError, match=r"no argument 'level'; it takes: bound.*; did you mean 'levels'"):
        build.construct({"_target_": "tokbench.quantizers.fsq.FiniteScalarQuantizer", "level": [8]})


def test_the_list_has_a_line_for_everything_and_needs_no_torch() -> None:
    code = "import sys\nfrom tokbench.list import main\nmain([])\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=build.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    for options in (names.groups()[group] for group in ("quantizer", "generation", "head", "data", "experiments")):
        for option in options:
            assert len(lines[option].split()) > 2, f"{option} needs a first comment that says what it is"
    assert "causal" in lines


def test_a_kind_that_is_not_there_is_answered(capsys) -> None:
    assert listing.main(["quantiser"]) == 2
    assert "did you mean 'quantizers'?" in capsys.readouterr().err


def test_a_reader_that_has_had_enough_is_no_error() -> None:
    line = f"{sys.executable} -m tokbench.list | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=build.ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "Could not override 'loss.weight'.\nTo append to your config use +loss.weight=1\nKey 'loss' is not in struct\n"
            "    full_key: loss\n    object_type=dict\n\nSet the environment variable HYDRA_FULL_ERROR=1 for all.\n",
            "Could not override 'loss.weight'. Key 'loss' is not in struct",
        ),
        (
            "In 'config': Could not find 'data/x'\n\nAvailable options in 'data':\n\tcifar10\n\tglyphs\nConfig search path:\n",
            "In 'config': Could not find 'data/x' Available options in 'data': cifar10, glyphs",
        ),
        (
            'Traceback (most recent call last):\n  File "a.py"\nValueError: not so\n\nSet the environment variable A\n',
            "not so",
        ),
        ("Traceback (most recent call last):\n  File \"a.py\"\nKeyError: 'name'\n", "KeyError: 'name'"),
    ],
)
def test_what_hydra_says_is_one_line(said: str, line: str) -> None:
    assert names.in_one_line(said) == line


def test_keys_that_no_run_reads_are_refused_and_those_of_every_experiment_are_not() -> None:
    with pytest.raises(ValueError, match="fewsteps is no key of a run; did you mean 'few_steps'"):
        names.check_keys(["seed", "fewsteps"])
    for option in names.groups()["experiments"]:
        composed = build.compose([f"experiments={option}"])
        names.check_keys({"experiments", "about"} | composed.keys() - {"choices"})
