"""What there is, and what a misspelt name was meant to be."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tokbench import build, names
from tokbench import list as listing
from tokbench.run import BAD_INPUT, main

HEADS = "bins, categorical, diffusion, diffusion_ode, factorised, fourier, mixture, regression"
MANY = "(python -m tokbench.list names them all)"


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("quantizer=fqs", f"quantizer has no option 'fqs'; did you mean 'fsq'? {MANY}"),
        ("quantizer=fsq,vq_tunned", f"quantizer has no option 'vq_tunned'; did you mean 'vq_tuned'? {MANY}"),
        ("experiments=quantizer", f"experiments has no option 'quantizer'; did you mean 'quantizers'? {MANY}"),
        (
            "data=cifar",
            "data has no option 'cifar'; did you mean 'cifar10'? (it has cifar10, folder, glyphs, photos, scenes)",
        ),
        ("generation=transfusoin", f"generation has no option 'transfusoin'; did you mean 'transfusion'? {MANY}"),
        ("budget.tokenizer.step=3", "no setting named budget.tokenizer.step; did you mean 'budget.tokenizer.steps'?"),
        ("quantiser=vq", "no setting named quantiser; did you mean 'quantizer'?"),
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


@pytest.mark.parametrize("word", ["foo=1", "experiments=nosuch", "budget.tokenizer.foo=3", "quantizer.nosuch=3"])
def test_a_name_that_is_like_no_other_has_no_answer(word: str) -> None:
    assert list(names.misspelt([word])) == []


@pytest.mark.parametrize("word", ["head@generation.head=bins", "toys=heads", "head=bins"])
def test_groups_that_do_not_fit_are_told_by_hydra_alone(word: str) -> None:
    assert list(names.misspelt([word, "foo=1"])) == []


def test_settings_of_presets_that_are_swept_are_not_called_misspelt() -> None:
    assert list(names.misspelt(["generation=showo,mar", "generation.scheme.rounds=8"])) == []


def test_names_of_two_letters_in_another_order_are_near() -> None:
    assert names.nearest("lk", ["kl", "vq"]) == "kl"


def test_the_command_line_suggests(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["tokbench.run", "-m", "experiments=defualt"])
    assert main() == BAD_INPUT
    assert capsys.readouterr().err == f"error: experiments has no option 'defualt'; did you mean 'default'? {MANY}\n"


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


def test_an_experiment_is_listed_with_its_claims_its_whole_question_and_its_minutes(capsys) -> None:
    assert listing.main(["experiments"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  text_tax ")]
    about = yaml.safe_load((names.EXPERIMENTS / "text_tax.yaml").read_text())["about"]
    assert line.split(maxsplit=1)[1] == f"C15: {about['question']} ({about['minutes']} minutes)"


def test_an_experiment_without_a_question_is_listed_by_its_comment(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# @package _global_\n# What of mine?\ndefaults: []\n")
    assert listing.asked(tmp_path / "mine.yaml") == "What of mine?"


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
            "no setting named loss.weight",
        ),
        (
            "Could not override 'quantizer.decay'.\nTo append to your config use +x\nKey 'decay' is not in struct",
            "no setting named quantizer.decay; an option that its file does not set is added with a +: +quantizer.decay",
        ),
        (
            "Could not override 'head@x'.\nDid you mean to override head@y?\nTo append to your default list use +head@x=bins",
            "Could not override 'head@x'. Did you mean to override head@y?",
        ),
        (
            "In 'a/b': Could not find 'loss/x/y'\n\nAvailable options in 'loss/x':\n\tgan\n\tpatch\nConfig search path:\n",
            "In 'a/b': Could not find 'loss/x/y' Available options in 'loss/x': gan, patch",
        ),
        (
            "In 'a/b': Could not find 'head/nosuch'\n\nAvailable options in 'head':\n\tbins\nConfig search path:\n",
            f"head has no option 'nosuch' (it has {HEADS})",
        ),
        ("In 'config': Could not find 'experiments/nosuch'\n", f"experiments has no option 'nosuch' {MANY}"),
        (
            "Error parsing override 'quantizer'\nmissing EQUAL at '<EOF>'\nSee https://hydra.cc for details",
            "arguments must be KEY=VALUE, got 'quantizer'",
        ),
        (
            "Could not append to config. An item is already at 'a.b'.\nEither remove + prefix: 'a.b=1'\nOr add a second +",
            "a.b is set already: leave its + out",
        ),
        (
            "usage: run.py [--help] [overrides ...]\nrun.py: error: unrecognized arguments: seed=0,1 stage=all\n",
            "-m must come before all KEY=VALUE or after them, got 'seed=0,1' after it",
        ),
        (
            "usage: run.py [--help]\nrun.py: error: unrecognized arguments: -x seed=1\n",
            "no argument -x; --help lists them",
        ),
        (
            "usage: run.py [--help]\nrun.py: error: argument --package/-p: expected one argument\n",
            "argument --package/-p: expected one argument",
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
    with pytest.raises(ValueError, match="no setting named fewsteps; did you mean 'few_steps'"):
        names.check_keys(["seed", "fewsteps"])
    for option in names.groups()["experiments"]:
        composed = build.compose([f"experiments={option}"])
        names.check_keys({"experiments", "about"} | composed.keys() - {"choices"})
