"""Which run a configuration is: the presets it trains, the modules whose versions count, and the hash of it all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokbench import build

Values = Mapping[str, Any]
COMMON = "transfusion"  # the preset of the like-for-like column
ROOMS = (  # whose VERSION is in the hash of every run, beside those of the modules its configuration names
    *("tokbench.interfaces", "tokbench.layers", "tokbench.diffusion", "tokbench.cost", "tokbench.train"),
    *("tokbench.judges", "tokbench.job", "tokbench.stages", "tokbench.execute", "tokbench.metrics.standard"),
    *("tokbench.quantizers.nearest", "tokbench.quantizers.estimators"),
    *("tokbench.backbone.transformer", "tokbench.backbone.attention"),
    *("tokbench.backbone.positions", "tokbench.backbone.sequence"),
    *("tokbench.metrics.images", "tokbench.metrics.features", "tokbench.metrics.codes"),
    *("tokbench.evaluate.tokenizer", "tokbench.evaluate.generation", "tokbench.evaluate.baselines"),
    *("tokbench.evaluate.costs", "tokbench.evaluate.tokens", "tokbench.evaluate.reference"),
    "tokbench.evaluate.robustness",
)
ON_DEMAND = {  # the same, where that key is set
    **{"tuning": "tokbench.tune", "shapes": "tokbench.evaluate.shapes"},
    "rd": "tokbench.evaluate.kodak",
    **{"few_steps": "tokbench.evaluate.few_steps", "pairs": "tokbench.pairs"},
}
CODED = (  # the same, of runs that measure code lengths: every stage but tokenizer
    *("tokbench.information.residual", "tokbench.information.continuous", "tokbench.information.diffusion_bound"),
    *("tokbench.information.lossless", "tokbench.information.image_lossless", "tokbench.evaluate.code_length"),
)
JUDGED = {  # the same, of runs on data with a known truth
    f"tokbench.data.{name}.load": (f"tokbench.{judge}", f"tokbench.evaluate.{measure}", "tokbench.evaluate.choices")
    for name, judge, measure in (
        ("glyphs", "judges_reader", "legibility"),
        ("scenes", "judges_checker", "exactness"),
    )
}
LINE = "tokbench.tokenizers.line"  # the same, of runs whose tokens are a line


def identify(config: Values, fingerprints: Mapping[str, str], *, codebooks: int) -> tuple[Values, dict[str, int], str]:
    """The configuration as it is recorded, the versions and the hash of the run of a tokenizer with so many codebooks.

    The preset for several codebooks is part of it only where there are several.
    """
    generation = {k: v for k, v in config["generation"].items() if k != "native_stages" or codebooks > 1}
    config = {**config, "generation": generation}
    nodes = [config.get(name) for name in ("data", "tokenizer", "quantizer", "backbone", "loss")]
    presets = presets_of(generation, codebooks=None).values()
    nodes += [node for preset in presets for node in (preset["scheme"], preset["head"])]
    used = [room for key, room in ON_DEMAND.items() if config.get(key)]
    used += JUDGED.get(config["data"]["_target_"], ())
    used += CODED if config["stage"] != "tokenizer" else ()
    versions = build.versions(nodes, (*rooms_of(config), *used))
    return config, versions, build.run_hash(config, fingerprints, versions)


def rooms_of(config: Values) -> tuple[str, ...]:
    """The modules behind a run's tokenizer that its configuration does not name."""
    return ROOMS if config["tokenizer"].get("layout", "grid") == "grid" else (*ROOMS, LINE)


def presets_of(generation: Values, *, codebooks: int | None) -> dict[str, Values]:
    """The preset of each block. A single preset fills the native block, but Transfusion, which serves all, the common one.

    `codebooks` of the tokenizer choose among the native ones, 0 where it is continuous; None: all of them.
    """
    if "scheme" in generation:
        return {"common" if generation["name"] == COMMON else "native": generation}
    if codebooks is None:
        return dict(generation)
    native = "native_stages" if codebooks > 1 else "native_discrete" if codebooks else "native_continuous"
    if missing := {"common", native} - set(generation):
        raise ValueError(f"generation must have {missing.pop()} with this tokenizer, got {', '.join(generation)}")
    return {"common": generation["common"], "native": generation[native]}
