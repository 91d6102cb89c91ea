import fcntl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch

from tokbench import cost
from tokbench.backbone.sequence import encode_text
from tokbench.backbone.transformer import Backbone
from tokbench.generation.causal import Causal
from tokbench.generation.denoise import Denoise
from tokbench.heads.categorical import Categorical
from tokbench.interfaces import TokenBatch, TokenSpace

GRID, N, D, V, WIDTH, DEPTH, STEPS = (4, 4), 16, 4, 64, 48, 2, 3
SIZES = cost.Sizes(width=WIDTH, depth=DEPTH, dim=D)
CAPTIONS = ["abcdefgh", "abc"]
PROMPT = 8 + cost.PROMPT_SPECIALS


def _schemes():
    codes = torch.randn(V, D)
    space = TokenSpace(GRID, D, (V,), codes.mean(0), codes.std(0), lambda indices: codes[indices])
    backbone = Backbone(dim=D, width=WIDTH, depth=DEPTH, heads=2, grid=GRID, positions="rope_tv", base=100.0)
    rows = {"image_first": 0.2, "caption_dropout": 0.1, "loss_weights": {"text": 1.0, "image": 1.0}}
    head = Categorical(width=WIDTH, codebook_sizes=(V,), top_p=1.0)
    causal = Causal(space, backbone, head, order="raster", temperature=1.0, **rows)
    denoise = Denoise(space, backbone, schedule="cosine", prediction="v", steps=STEPS, sampler="ddim", **rows)
    indices = torch.randint(V, (2, N))
    return causal, denoise, TokenBatch(space.standardize(codes[indices]), indices, *encode_text(CAPTIONS))


def _counted_sample(scheme, guidance):
    text, lengths = encode_text(CAPTIONS)
    generator = torch.Generator().manual_seed(0)
    return cost.counted_flops(lambda: scheme.sample(text, lengths, guidance=guidance, generator=generator))


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_analytic_generation_flops_are_those_counted(guidance):
    causal, denoise, _ = _schemes()
    options = {"prompt": PROMPT, "num_tokens": N, "guided": guidance != 1}
    expected = cost.causal_generation_flops(SIZES, codebook_size=V, **options)
    assert _counted_sample(causal, guidance) / 2 == pytest.approx(expected, rel=0.02)
    expected = cost.denoise_generation_flops(SIZES, steps=STEPS, **options)
    snap = 2 * N * V * D
    assert _counted_sample(denoise, guidance) / 2 - snap == pytest.approx(expected, rel=0.02)


def test_analytic_forward_flops_are_those_counted_and_training_is_three_of_them():
    causal, denoise, batch = _schemes()
    for scheme, image_head in ((causal, V), (denoise, D)):
        counted = cost.counted_flops(lambda scheme=scheme: scheme.loss(batch, torch.Generator().manual_seed(0)))
        shape = {"text": 8, "num_tokens": N, "image_head": image_head}
        assert counted / 2 == pytest.approx(cost.forward_flops(SIZES, **shape), rel=0.02)
        assert cost.training_flops(SIZES, **shape) == 3 * cost.forward_flops(SIZES, **shape)


def test_training_flops_with_the_backward_pass_are_those_counted():
    causal, _, batch = _schemes()
    counted = cost.counted_flops(lambda: sum(causal.loss(batch, torch.Generator().manual_seed(0)).values()).backward())
    expected = cost.training_flops(SIZES, text=8, num_tokens=N, image_head=V)
    assert counted / 2 == pytest.approx(expected, rel=0.02)


def test_kv_bytes_are_those_a_cache_holds():
    causal, _, _ = _schemes()
    cache, _ = causal.backbone.prefill(torch.full((3, 5), 256), torch.tensor([5, 3, 4]), room=N)
    assert cache.num_bytes == cost.kv_bytes(SIZES, slots=5 + N, rows=3, element_bytes=4)


def test_passes_and_parameters_are_counted():
    assert cost.causal_passes(64) == 64
    assert cost.denoise_passes(25) == 26
    assert cost.num_parameters(torch.nn.Linear(3, 4)) == 16


def test_calls_are_timed_after_a_warm_up():
    calls = []
    timing = cost.latency(lambda: calls.append(time.sleep(0.01)), repeats=5, warm_up=2)
    assert len(calls) == 7
    assert len(timing.seconds) == 5
    assert 0.01 <= timing.median < 0.1
    assert timing.interquartile_range >= 0


def test_throughput_halves_the_batch_until_it_fits():
    def run(batch):
        if batch > 8:
            raise torch.OutOfMemoryError
        time.sleep(0.01)

    rate, batch = cost.throughput(run, batch=32, repeats=3)
    assert batch == 8
    assert 80 < rate <= 800


def test_peak_memory_of_forty_megabytes_is_forty_megabytes():
    def allocate():
        for _ in range(3):
            torch.zeros(10_000_000).add_(1)  # freed each time

    peak = cost.peak_memory_bytes(allocate, device=torch.device("cpu"))
    assert peak == pytest.approx(40e6, rel=0.01)
    add = lambda: torch.zeros(10_000_000) + torch.zeros(10_000_000)  # noqa: E731
    both = cost.peak_memory_bytes(add, device=torch.device("cpu"))
    assert both == pytest.approx(120e6, rel=0.01)


def _other_seconds_without_and_with_children(monkeypatch):
    ours = cost._other_seconds()
    with monkeypatch.context() as patch:
        patch.setattr(psutil.Process, "children", lambda *a, **k: [])
        return ours, cost._other_seconds()


def test_the_work_of_other_processes_marks_a_measurement(monkeypatch):
    waste = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # a child: its work is our own
    try:
        time.sleep(0.1)
        before = _other_seconds_without_and_with_children(monkeypatch)
        time.sleep(0.4)
        after = _other_seconds_without_and_with_children(monkeypatch)
        monkeypatch.setattr(psutil.Process, "children", lambda *a, **k: [])
        measured = cost.quietly(lambda: time.sleep(0.4), attempts=2, wait_seconds=0.0)
    finally:
        waste.kill()
        waste.wait()
    child = (after[1] - before[1]) - (after[0] - before[0])
    assert 0.05 < child < 0.5
    assert (measured.value, measured.reason, measured.attempts) == (None, "busy", 2)
    assert measured.load_average >= 0


def test_a_quiet_machine_gives_its_value(monkeypatch):
    monkeypatch.setattr(cost, "_other_seconds", lambda: 0.0)
    measured = cost.quietly(lambda: 7, wait_seconds=0.0)
    assert (measured.value, measured.reason, measured.other_cores, measured.attempts) == (7, None, 0.0, 1)


def test_only_one_holder_measures_at_a_time():
    path = Path(tempfile.gettempdir()) / "tokbench-measure.lock"
    with cost.machine_lock(), path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with cost.machine_lock():
        pass
