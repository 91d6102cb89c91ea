"""Draws of indices: their clocks are torch's own exponentials."""

import pytest
import torch

from tokbench.heads.sampling import exponential


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exponentials_are_those_of_torch_and_leave_the_generator_where_it_would(seed):
    ours, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
    expected = torch.empty(300, 100).exponential_(generator=theirs)
    assert torch.equal(exponential((300, 100), ours), expected)
    assert torch.equal(ours.get_state(), theirs.get_state())
