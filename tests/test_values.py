"""Values that cannot be meant are told in one line that names them, before anything is trained."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from tokbench import build, job
from tokbench.generation import tokens
from tokbench.values import check_config

COUNTS = (
    *("tokenizer.steps", "tokenizer.batch", "backbone.steps", "backbone.batch", "backbone.heads", "backbone.width"),
    *("judge.steps", "evaluation.batch", "evaluation.denoise_steps", "evaluation.samples", "evaluation.tuning_samples"),
    *("evaluation.understanding", "evaluation.throughput_batch"),
)


def refused(config: Mapping[str, object]) -> str:
    with pytest.raises(ValueError, match=r"must (be|have)") as caught:
        job.prepare(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def smoke() -> dict[str, Any]:
    return build.compose(["budget=smoke"])


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "abc", None])
@pytest.mark.parametrize("key", COUNTS)
def test_a_count_of_the_budget_is_a_whole_number_of_at_least_one(
    key: str, value: object, smoke: dict[str, Any]
) -> None:
    config = copy.deepcopy(smoke)
    part, name = key.split(".")
    config["budget"][part][name] = value
    assert refused(config) == f"budget.{key} must be a whole number >= 1, got {value!r}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget.backbone.lr=nan"], "budget.backbone.lr must be a number >= 0, got nan"),
        (["budget.tokenizer.weight_decay=-1"], "budget.tokenizer.weight_decay must be a number >= 0, got -1"),
        (["budget.images.train=0"], "budget.images.train must be a whole number >= 1 or null, got 0"),
        (["+budget.backbone.training_flops=0"], "budget.backbone.training_flops must be a number > 0, got 0"),
        (
            ["budget.evaluation.guidances=[]"],
            "budget.evaluation.guidances must be a list of one number or more, got []",
        ),
        (
            ["budget.evaluation.guidances=1.5"],
            "budget.evaluation.guidances must be a list of one number or more, got 1.5",
        ),
        (["budget.evaluation.guidances=[inf]"], "guidances must be a list of one number or more, got [inf]"),
        (
            ["+generation.scheme.interleaved=0.5"],
            "generation must be one preset, such as chameleon, where",
        ),
        (["few_steps=0"], "few_steps must be a whole number >= 1 or null, got 0"),
        (["few_steps=false"], "few_steps must be a whole number >= 1 or null, got False"),
        (["shapes=maybe"], "shapes must be true or false, got 'maybe'"),
        (["force=1"], "force must be true or false, got 1"),
        (["seed=true"], "seed must be a whole number >= 0, got True"),
        (["pairs={steps:0,side:4}"], "pairs.steps must be a whole number >= 1, got 0"),
        (["pairs={steps:2,side:4.5}"], "pairs.side must be a whole number >= 1, got 4.5"),
        (["pairs={steps:2}"], "pairs must be null or have the keys steps and side, got {'steps': 2}"),
        (["pairs={}"], "pairs must be null or have the keys steps and side, got {}"),
        (["pairs=3"], "pairs must be null or have the keys steps and side, got 3"),
        (["pairs={steps:2,side:300}"], "pairs.side must be <= the side of an image, 32, got 300"),
        (
            ["budget.precision=half"],
            "budget.precision must be one of 32-true, 16-mixed, bf16-mixed, 16-true, bf16-true, 64",
        ),
        (["budget.name=3"], "budget.name must be text, got 3"),
        (
            ["~budget.backbone.lr"],
            "budget.backbone must have width, depth, steps, batch, lr, weight_decay, clip, got {",
        ),
        (["~generation.native_discrete"], "generation must have native_discrete with this tokenizer, got common"),
        (["generation=chameleon", "generation.name=null"], "generation.name must be text, got None"),
        (["budget.backbone.depth=0"], "budget.backbone.depth must be a whole number >= 1, got 0"),
        (["tuning=equal", "tuning.fraction=0"], "tuning.fraction must be a number > 0, got 0"),
        (["budget.backbone.batch=257"], "budget.backbone.batch must be <= the 256 training images, got 257"),
    ],
)
def test_a_value_of_the_configuration_is_told_by_its_key(words: list[str], message: str) -> None:
    assert message in refused(build.compose(["budget=smoke", *words]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["generation=showo", "generation.scheme.rounds=abc"],
            "rounds of tokbench.generation.masked.Masked must be a whole number, got 'abc'",
        ),
        (
            ["generation=showo", "generation.scheme.rounds=2.5"],
            "rounds of tokbench.generation.masked.Masked must be a whole number, got 2.5",
        ),
        (
            ["generation=transfusion", "generation.scheme.steps=2.5"],
            "steps of tokbench.generation.denoise.Denoise must be a whole number, got 2.5",
        ),
        (
            ["generation=chameleon", "generation.scheme.temperature=nan"],
            "temperature of tokbench.generation.causal.Causal must be a finite number, got nan",
        ),
        (
            ["generation=mar", "quantizer=continuous_4", "generation.scheme.temperature=inf"],
            "temperature of tokbench.generation.masked.Masked must be a finite number, got inf",
        ),
        (
            ["generation=chameleon", "generation.scheme.order=[1]"],
            "order of tokbench.generation.causal.Causal must be text, got [1]",
        ),
        (
            ["generation=chameleon", "generation.scheme.loss_weights.text=abc"],
            "loss_weights of tokbench.generation.causal.Causal must be a mapping of which each is a finite number, got {",
        ),
        (
            ["generation=chameleon", "~generation.scheme.loss_weights.image"],
            "loss_weights must be of text and image, got",
        ),
        (["generation=transfusion", "+generation.scheme.patch=2.0"], "patch must be a whole number"),
        (["generation=transfusion", "+generation.scheme.patch=abc"], "patch must be a whole number"),
        (
            ["generation=transfusion", "+generation.scheme.branch=unet"],
            "branch of tokbench.generation.denoise.Denoise must be a node with a _target_ or null, got 'unet'",
        ),
        (["backbone.heads=0"], "backbone.heads must be a whole number >= 1, got 0"),
        (["backbone.width=0"], "backbone.width must be a whole number >= 1, got 0"),
        (["backbone.depth=2.0"], "backbone.depth must be a whole number >= 1, got 2.0"),
        (["backbone.depth=0"], "backbone.depth must be a whole number >= 1, got 0"),
        (
            ["generation=mar", "quantizer=continuous_4", "generation.head.net_width=0"],
            "net_width must be >= 1 and net_depth >= 0, got 0 and 3",
        ),
        (
            ["generation=chameleon", "generation.head=categorical"],
            "what is built must be a mapping with a _target_, got 'categorical'",
        ),
        (["backbone.base=-5"], "backbone.base must be a number > 0, got -5"),
        (["tokenizer.factor=0"], "factor must be >= 2, got 0"),
        (
            ["tokenizer.depth=null"],
            "depth of tokbench.tokenizers.autoencoder.Autoencoder must be a whole number, got None",
        ),
        (
            ["quantizer.levels=8"],
            "levels of tokbench.quantizers.fsq.FiniteScalarQuantizer must be a list of which each is a whole number",
        ),
        (["data.num_train=many"], "num_train of tokbench.data.photos.load must be a whole number, got 'many'"),
    ],
)
def test_a_value_of_a_wrong_type_is_told_by_the_argument_that_takes_it(words: list[str], message: str) -> None:
    assert message in refused(build.compose(["budget=smoke", *words]))


def test_a_temperature_that_a_sampler_without_noise_cannot_have_is_refused_with_both() -> None:
    words = ["generation=mar", "quantizer=continuous_4", "head@generation.head=diffusion_ode"]
    job.prepare(build.compose(["budget=smoke", *words]))
    message = refused(build.compose(["budget=smoke", *words, "generation.scheme.temperature=0.5"]))
    expected = "temperature must be 1 but with sampler 'ddpm', which alone adds noise, got 0.5 with 'dpm_solver_2m'"
    assert message == expected


@pytest.mark.parametrize("order", ["column", "spiral", "random"])
def test_shapes_need_the_order_that_any_number_of_tokens_has(order: str) -> None:
    words = ["budget=smoke", "shapes=true", "generation=chameleon"]
    job.prepare(build.compose(words))
    job.prepare(build.compose([*words, f"generation.scheme.order={order}", "stage=bits"]))  # which judges no shapes
    message = refused(build.compose([*words, f"generation.scheme.order={order}"]))
    assert message == f"order must be raster with shapes=true, got {order!r}"


def test_learned_places_are_enough_for_the_captions_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["budget=smoke", "generation=chameleon", "backbone.positions=learned"]
    longest = max(len(caption.encode()) for caption in job.prepare(build.compose(words)).dataset.train.captions)
    monkeypatch.setattr(tokens, "TEXT_PLACES", 2 * longest + 5)  # one less than two captions need
    job.prepare(build.compose(words))
    message = refused(build.compose([*words, "+generation.scheme.interleaved=0.5"]))
    most = 2 * longest - 1
    assert message == f"a row's captions must be <= {most} bytes with positions=learned, got 2 of up to {longest} bytes"


def test_shapes_need_patches_that_divide_every_one() -> None:
    words = ["budget=smoke", "shapes=true", "generation=transfusion"]
    assert job.prepare(build.compose([*words, "+generation.scheme.patch=2"])).config["shapes"]
    with pytest.raises(ValueError, match="patch must divide the tokenizer's grid, got patch 3"):
        job.prepare(build.compose([*words, "+generation.scheme.patch=3"]))


def test_steps_may_be_null_where_training_flops_pay_for_them() -> None:
    words = ["budget=smoke", "budget.backbone.steps=null", "+budget.backbone.training_flops=1e9"]
    check_config(build.compose(words))


def test_every_conf_is_accepted() -> None:
    for budget in sorted(path.stem for path in (build.ROOT / "conf" / "budget").glob("*.yaml")):
        check_config(build.compose([f"budget={budget}", "pairs={steps:2,side:3}", "few_steps=4", "tuning=equal"]))


class Told:
    """A class whose annotations hold all that is looked at, and some that are not."""

    def __init__(
        self,
        size: int = 1,
        share: float | None = None,
        sizes: Sequence[int] = (),
        make: Callable[..., object] | None = None,
        anything: object = None,
    ) -> None:
        self.given = size, share, sizes, make, anything


NODE = {"_target_": f"{__name__}.Told"}


@pytest.mark.parametrize(
    "good", [{"size": -3}, {"share": 2}, {"share": None}, {"sizes": [1, 2]}, {"make": NODE}, {"anything": "x"}]
)
def test_what_fits_its_annotation_is_taken_as_it_is(good: dict[str, object]) -> None:
    assert build.construct(NODE | good).given


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"size": True}, f"size of {__name__}.Told must be a whole number, got True"),
        ({"share": "x"}, f"share of {__name__}.Told must be a finite number or null, got 'x'"),
        ({"share": float("inf")}, f"share of {__name__}.Told must be a finite number or null, got inf"),
        ({"sizes": [1, 2.5]}, f"sizes of {__name__}.Told must be a list of which each is a whole number, got [1, 2.5]"),
        ({"make": 3}, f"make of {__name__}.Told must be a node with a _target_ or null, got 3"),
    ],
)
def test_what_does_not_fit_its_annotation_is_refused(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        build.construct(NODE | bad)
    assert str(caught.value) == message
