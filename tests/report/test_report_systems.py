import numpy as np
from matplotlib.image import imread
from report_factory import measure

from tokbench.records import read_records, write_arrays, write_record
from tokbench.report.groups import group_records
from tokbench.report.layouts import SECTIONS
from tokbench.report.levels import enough
from tokbench.report.systems import completion_strips, draw_heatmaps, draw_systems, heatmaps, step_curves, time_curves
from tokbench.report.tables import ENCODER_DECODER, table
from tokbench.report.view import View


def view_of(folder, *runs):
    """A view of made-up runs (name, preset, seed, flops, metrics, arrays)."""
    from report_factory import record

    (folder / "runs").mkdir(parents=True)
    for name, preset, seed, flops, metrics, arrays in runs:
        made = record(name, seed)
        config = {**made.config, "generation": {"name": preset}, "budget": {"backbone": {"training_flops": flops}}}
        found = {key: measure(key, value) for key, value in metrics.items()}
        hash = f"{abs(hash_of(name, preset, seed)):08x}"
        files = {}
        if arrays:
            file = f"{name}-s{seed}-{hash}.npz"
            files = {file: write_arrays(folder / "runs" / file, arrays)}
        blocks = {"native": preset}
        fields = {"config": config, "metrics": found, "blocks": blocks, "hash": hash, "files": files, "stage": "all"}
        write_record(made.model_copy(update=fields), folder / "runs")
    (group,) = group_records(read_records(folder / "runs"))
    return View(group, folder / "runs")


def hash_of(*parts):
    import zlib

    return zlib.crc32(repr(parts).encode()) % 2**31


def test_a_heatmap_has_a_cell_for_each_pair_that_was_trained_for_the_same_flops(tmp_path):
    runs = [
        (name, preset, seed, flops, {"native/guided/fd_classifier": value + seed}, {})
        for name, preset, flops, value in (
            ("fsq", "chameleon", 2e12, 4.0),
            ("fsq", "mar", 2e12, 6.0),
            ("patches", "mar", 2e12, 8.0),
            ("patches", "chameleon", 5e12, 1.0),
        )
        for seed in (0, 1)
    ]
    view = view_of(tmp_path, *runs)
    assert heatmaps(view) == {2e12: {("fsq", "chameleon"): 4.5, ("fsq", "mar"): 6.5, ("patches", "mar"): 8.5}}
    (path,) = draw_heatmaps(view, tmp_path)
    assert path.name.endswith("-equal-flops-2e+12.png")
    assert path.read_bytes()[:4] == b"\x89PNG"


def test_a_row_of_mar_says_that_it_is_one_stack_and_names_the_published_encoder_decoder(tmp_path):
    values = {"native/cost/parameters": 1e6}
    mar = view_of(tmp_path / "mar", ("fsq", "mar", 0, None, values, {}), ("vq", "showo", 0, None, values, {}))
    (layout,) = (layout for s in SECTIONS for layout in s.layouts if (s.title, layout.title) == ("Cost", "Native"))
    lines = table(mar, layout)
    assert [line.split("|")[2].strip() for line in lines if line.startswith(("| fsq", "| vq"))] == [
        "mar (one stack)",
        "showo",
    ]
    assert lines.count(ENCODER_DECODER) == 1
    other = view_of(tmp_path / "other", ("fsq", "showo", 0, None, values, {}))
    assert ENCODER_DECODER not in table(other, layout)


def test_curves_and_completions_are_drawn_where_runs_have_them(tmp_path):
    metrics = {f"native/steps/fd_classifier_rounds_{n}": 8.0 / n for n in (1, 2, 4)}
    images = np.zeros((8, 3, 8, 8), dtype=np.uint8)
    arrays = {"completed_native": images, "completion_originals": images + 9}
    view = view_of(tmp_path, ("fsq", "showo", 0, None, metrics, arrays))
    assert step_curves(view) == {"fsq, showo: rounds": [(1, 8.0), (2, 4.0), (4, 2.0)]}
    strips = completion_strips(view)
    assert [label for label, _ in strips] == ["originals", "fsq\nshowo"]
    assert strips[0][1].max() == 9
    assert len(draw_systems(view, tmp_path)) == 2


def test_quality_over_time_has_a_panel_where_runs_were_timed(tmp_path):
    quality = {f"native/steps/fd_classifier_rounds_{n}": 8.0 / n for n in (1, 2, 4)}
    times = {f"native/steps/latency_seconds_rounds_{n}": 0.01 * n for n in (1, 2)}
    timed = view_of(tmp_path / "timed", ("fsq", "showo", 0, None, quality | times, {}))
    busy = view_of(tmp_path / "busy", ("fsq", "showo", 0, None, quality | dict.fromkeys(times), {}))
    assert time_curves(timed, "latency_seconds") == {"fsq, showo: rounds": [(10.0, 8.0), (20.0, 4.0)]}
    assert time_curves(busy, "latency_seconds") == time_curves(timed, "best_batch_seconds") == {}
    together = {key.replace("latency", "best_batch"): value / 2 for key, value in times.items()}
    both = view_of(tmp_path / "both", ("fsq", "showo", 0, None, quality | times | together, {}))
    assert time_curves(both, "best_batch_seconds") == {"fsq, showo: rounds": [(5.0, 8.0), (10.0, 4.0)]}
    widths = [imread(*draw_systems(view, tmp_path)).shape[1] for view in (busy, timed, both)]
    assert widths[1] > 1.5 * widths[0]
    assert widths[2] > 1.3 * widths[1]


def test_few_steps_are_enough_within_some_percent(tmp_path):
    runs = [
        (
            "fsq",
            "showo",
            seed,
            None,
            {
                "native/steps/fd_classifier_rounds_4": 10.2 + 0.01 * seed,
                "native/steps/fd_classifier_rounds_1": 20.0 + seed,
                "native/steps/fd_classifier_rounds_64": 10.0,
            },
            {},
        )
        for seed in range(3)
    ]
    view = view_of(tmp_path, *runs)
    rows = [
        {
            "label": str(n),
            "row": {"name": "fsq", "generation.name": "showo"},
            "few": f"native/steps/fd_classifier_rounds_{n}",
        }
        for n in (4, 1, 2)
    ]
    few, one, absent = enough(view, "native/steps/fd_classifier_rounds_64", 5, rows=rows)
    assert (few.agrees, few.effect, few.unit) == (True, "+2.1", "%")
    assert one.agrees is False
    assert absent is None
    assert enough(view, "native/steps/fd_classifier_rounds_64", 2.1, rows=rows[:1])[0].agrees is None
