"""What fails for memory is tried once more in parts, and says so."""

import gc
import weakref

import pytest
import torch
from torch import nn

from tokbench.memory import out_of_memory, parts_of, trained_in_memory
from tokbench.train import Training

ERRORS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: not enough memory: you tried to allocate 8"
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_failure_of_memory_is_tried_once_more_with_a_new_model_in_parts(error: Exception, capsys) -> None:
    made: list[weakref.ref[nn.Module]] = []
    tried = []

    def make() -> nn.Module:
        assert not any(model() for model in made), "the first model must be gone before the second is made"
        model = nn.Linear(2, 2)
        made.append(weakref.ref(model))
        return model

    def fit(model: nn.Module, parts: int) -> Training:
        tried.append(parts)
        if parts == 1:
            raise type(error)(*error.args)
        return Training([1.0], [], 1, 0.0, parts)

    gc.collect()
    model, training = trained_in_memory(make, fit, batch=64)
    assert tried == [1, 4]
    assert training.micro_batches == 4
    assert model is made[1]()
    assert "out of memory (" in capsys.readouterr().err


def test_a_second_failure_and_any_other_error_pass() -> None:
    def fit(_: object, parts: int) -> Training:
        raise MemoryError(f"in {parts}")

    with pytest.raises(MemoryError, match="in 4"):
        trained_in_memory(object, fit, batch=8)

    def other(_: object, parts: int) -> Training:
        raise RuntimeError(f"shapes differ in {parts}")

    with pytest.raises(RuntimeError, match="in 1"):
        trained_in_memory(object, other, batch=8)


def test_what_the_allocator_really_raises_is_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    assert out_of_memory(raised.value)
    assert not out_of_memory(RuntimeError("expected scalar type Float"))


@pytest.mark.parametrize(("size", "parts"), [(64, 4), (6, 6), (10, 5), (2, 2), (13, 13), (1, 1)])
def test_parts_divide_the_batch(size: int, parts: int) -> None:
    assert parts_of(size) == parts
