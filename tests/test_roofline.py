from functools import partial

import pytest
import torch

from tests.test_cost import DEPTH, GRID, WIDTH, D, N, _schemes
from tokbench import cost
from tokbench.backbone.transformer import Backbone
from tokbench.generation.branches import UNet
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.heads.categorical import Categorical
from tokbench.roofline import NAMED, Device, Work, bounds, measured_device, workload

UNIT = Device("unit", flops=100.0, bandwidth=10.0, launch=0.5, memory=1e9)


def test_each_bound_is_what_would_hold_alone_and_the_roofline_takes_the_slower_of_two():
    works = [Work(passes=2, flops=400.0, parameters=10, cached=5.0, blocks=3), Work(1, 100.0, 100, 0, 0)]
    found = bounds(works, UNIT, batch=1, element_bytes=2)
    assert (found.compute, found.weights, found.launch) == (5.0, 25.0, 3.0)
    assert found.seconds == max(4, 5) + 3.0 + max(1, 20)
    assert found.name == "weights"
    many = bounds(works, UNIT, batch=10, element_bytes=2)
    assert (many.compute, many.weights, many.launch) == (50.0, 34.0, 3.0)  # weights are read once, the cache ten times
    assert many.name == "compute"
    assert bounds([Work(9, 1.0, 1, 0, 9)], UNIT, batch=1, element_bytes=2).name == "launch"


def test_weights_and_compute_meet_at_m_star_tokens():
    """SYSTEMS.md section 3: m* = F b_w / (2 BW), 83 on an H200 in bfloat16."""
    device, parameters = NAMED["h200"], 10**9
    star = device.flops * 2 / (2 * device.bandwidth)
    assert round(star) == 83
    work = [Work(1, 2 * parameters * star, parameters, 0, 0)]
    found = bounds(work, device, batch=1, element_bytes=2)
    assert found.compute == pytest.approx(found.weights)


def test_the_work_of_a_scheme_adds_up_to_its_formulas():
    causal, denoise, _ = _schemes()
    sizes, prompt = cost.Sizes(WIDTH, DEPTH, D), 7
    parts = workload(causal, causal.space, prompt=prompt)
    expected = cost.causal_generation_flops(sizes, prompt=prompt, num_tokens=N, codebook_size=64, guided=False)
    assert sum(work.flops for work in parts.values()) == expected
    assert parts["prompt"].passes + parts["image"].passes == N
    assert parts["image"].cached == 2 * DEPTH * WIDTH * sum(prompt + count for count in range(1, N))
    assert parts["image"].parameters == cost.num_parameters(causal.backbone.blocks)
    parts = workload(denoise, denoise.space, prompt=prompt)
    expected = cost.denoise_generation_flops(sizes, prompt=prompt, num_tokens=N, steps=3, guided=False)
    assert sum(work.flops for work in parts.values()) == expected
    assert parts["image"].passes == 3


def test_weights_that_options_add_are_read_in_the_passes_that_use_them():
    space = _schemes()[1].space
    shape = {"dim": D, "width": WIDTH, "heads": 2, "grid": GRID, "positions": "rope_tv", "base": 100.0}
    rows = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {}}
    path = {"schedule": "cosine", "prediction": "v", "steps": 3, "sampler": "ddim"}
    for depth in (2, 3):
        backbone = Backbone(**shape, depth=depth, long_skips=True)
        blocks, skips = cost.num_parameters(backbone.blocks), 2 * WIDTH**2  # depths 2 and 3 have one skip
        parts = workload(Denoise(space, backbone, **path, **rows), space, prompt=7)
        assert parts["prompt"].parameters == parts["image"].parameters == blocks + skips
        parts = workload(Denoise(space, backbone, conditioning="adaln_zero", **path, **rows), space, prompt=7)
        assert parts["prompt"].parameters == blocks + skips
        assert parts["image"].parameters == blocks + skips + depth * (6 * WIDTH**2 + 6 * WIDTH)
        head = Categorical(width=WIDTH, codebook_sizes=space.codebook_sizes, top_p=1.0)
        parts = workload(Causal(space, backbone, head, order="raster", temperature=1.0, **rows), space, prompt=7)
        assert parts["prompt"].parameters == parts["image"].parameters == blocks + skips
    branched = Denoise(space, Backbone(**shape, depth=2), branch=partial(UNet, channels=8), **path, **rows)
    parts = workload(branched, space, prompt=7)
    assert parts["image"].parameters - parts["prompt"].parameters == cost.num_parameters(branched.branch)


def test_a_machine_has_rates():
    device = measured_device(torch.device("cpu"), torch.float32)
    assert 1e8 < device.flops < 1e14
    assert 1e7 < device.bandwidth < 1e13
    assert 1e-6 < device.launch < 1
    assert device.memory > 1e6
