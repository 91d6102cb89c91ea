"""Which preset serves which tokenizer, and what that leaves of a run's identity."""

import pytest

from tokbench import build, job


@pytest.fixture
def prepared(tmp_path):
    def prepare(*words: str) -> job.Job:
        return job.prepare(build.compose([*words, "budget=smoke", f"cache_dir={tmp_path}"]))

    return prepare


@pytest.mark.parametrize(
    ("quantizer", "native"),
    [
        ("fsq", "chameleon"),
        ("rvq", "causal_factorised"),
        ("product", "causal_factorised"),
        ("continuous_4", "transfusion"),
    ],
)
def test_the_native_scheme_follows_from_the_number_of_codebooks(prepared, quantizer, native):
    presets = prepared(f"quantizer={quantizer}").presets
    assert {block: preset["name"] for block, preset in presets.items()} == {"common": "transfusion", "native": native}


def test_the_preset_for_stages_is_part_of_those_runs_alone(prepared):
    plain, stages = prepared("quantizer=fsq"), prepared("quantizer=rvq")
    assert "native_stages" not in plain.config["generation"]
    assert "heads.factorised" not in plain.versions
    assert "native_stages" in stages.config["generation"]
    assert stages.versions["heads.factorised"] == 1
    composed = build.compose(["quantizer=fsq", "budget=smoke"])["generation"]
    assert plain.config["generation"] == {k: v for k, v in composed.items() if k != "native_stages"}


def test_the_head_gets_the_quantizers_own_digits(prepared):
    made = prepared("quantizer=fsq", "generation=causal_factorised")
    tokenizer = made.tokenizer()
    space = job.space_of(tokenizer, *made.dataset.train.images.new_ones(2, 4).float(), size=32)
    assert space.factors == ((8, 5, 5, 5),)
    assert made.scheme(made.presets["native"], space).head.radices == [8, 5, 5, 5]
    large = prepared("quantizer=lfq", "quantizer.dim=18", "generation=both_factorised")
    assert large.presets["native"]["name"] == "causal_factorised"


def test_a_softmax_over_stages_is_refused_with_the_preset_that_works(prepared):
    with pytest.raises(ValueError, match="use generation=causal_factorised"):
        prepared("quantizer=rvq", "generation=chameleon")


def test_too_many_tokens_for_a_cpu_are_refused_before_anything_is_trained(prepared, monkeypatch):
    monkeypatch.setattr(job.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"image tokens must be <= 1024 without a GPU, got 3072 of pixels at 32x32"):
        prepared("quantizer=pixels")
    assert not prepared("quantizer=pixels", "stage=tokenizer").presets


def test_too_small_a_base_of_rope_is_told_and_not_refused(prepared, capsys):
    prepared("quantizer=fsq")
    assert not capsys.readouterr().err
    prepared("quantizer=fsq", "backbone.base=10")
    assert "warning: fsq s0: backbone.base = 10 is below b*(" in capsys.readouterr().err


def test_the_base_is_judged_for_the_rows_of_the_scheme_whose_image_may_be_of_patches(prepared, capsys):
    lengths = {}
    for patch in (1, 2):
        prepared("quantizer=fsq", "generation=transfusion", "backbone.base=10", f"+generation.scheme.patch={patch}")
        told = capsys.readouterr().err
        assert told.count("warning") == 1
        lengths[patch] = int(told.partition("b*(")[2].partition(")")[0])
    side = 8  # tokens of an image
    assert lengths[1] - lengths[2] == side**2 - (side // 2) ** 2


def test_other_shapes_are_part_of_the_identity_of_runs_that_judge_them_alone(prepared):
    plain, shaped = prepared("quantizer=fsq"), prepared("quantizer=fsq", "shapes=true")
    assert "evaluate.shapes" not in plain.versions
    assert shaped.versions["evaluate.shapes"] == 1
    assert plain.hash != shaped.hash
    assert "shapes" not in build.hashed(plain.config)
