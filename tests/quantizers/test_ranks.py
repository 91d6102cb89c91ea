"""Two processes with half a batch each give what one process with the whole batch gives."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from tokbench import build
from tokbench.quantizers.ranks import from_first_rank, gather_tokens, mean_over_ranks, num_ranks, sum_over_ranks

RANKS, STEPS, B, N = 2, 3, 8, 40
VQ = {"_target_": "tokbench.quantizers.vq.VectorQuantizer", "dim": 4, "codebook_size": 32, "beta": 0.25}
BITS = {"dim": 6, "beta": 0.25, "entropy_weight": 0.1, "gamma": 1.0}
NODES = {
    "codebook loss": VQ | {"estimator": "straight_through"},
    "k-means": VQ | {"estimator": "rotation", "init": "kmeans"},
    "running means": VQ | {"estimator": "straight_through", "ema_decay": 0.8},
    "restart": VQ | {"estimator": "straight_through", "restart_below": 0.9, "restart_decay": 0.5},
    "all": VQ
    | {
        "estimator": "rotation",
        "init": "kmeans",
        "ema_decay": 0.8,
        "restart_below": 0.5,
        "cosine": True,
        "code_dim": 3,
    },
    "entropy": VQ | {"estimator": "straight_through", "entropy_weight": 0.1, "temperature": 0.5},
    "lfq": BITS | {"_target_": "tokbench.quantizers.lfq.LookupFreeQuantizer", "temperature": 0.5},
    "bsq": BITS | {"_target_": "tokbench.quantizers.bsq.BinarySphericalQuantizer", "temperature": 1.0},
    "simvq": {**VQ, "_target_": "tokbench.quantizers.simvq.SimVQ", "estimator": "rotation"},
}


class Model(torch.nn.Module):
    def __init__(self, quantizer: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.quantizer = torch.nn.Linear(5, quantizer.dim), quantizer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quantized = self.quantizer(self.encoder(x))
        weights = self.quantizer.loss_weights
        return (quantized.z_q - 1).square().mean() + sum(weights[k] * v for k, v in quantized.losses.items())


def trained(node: dict[str, object], rank: int, ranks: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = Model(build.construct(node))
    wrapped = DistributedDataParallel(model) if ranks > 1 else model
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x = torch.randn(B, N, 5, generator=generator)
        torch.manual_seed(100 + step)
        loss = wrapped(x[rank * B // ranks : (rank + 1) * B // ranks])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


def connect(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=RANKS)


def train_all(rank: int, port: int, folder: str) -> None:
    connect(rank, port)
    torch.save({name: trained(node, rank, RANKS) for name, node in NODES.items()}, Path(folder, f"{rank}.pt"))
    distributed.destroy_process_group()


def use_functions(rank: int, port: int, folder: str) -> None:
    connect(rank, port)
    x = torch.tensor([1.0 + rank, 5.0]).requires_grad_()
    mean = mean_over_ranks(x)
    mean.backward(torch.tensor([2.0, 3.0]))
    assert num_ranks() == RANKS
    assert mean.tolist() == [1.5, 5.0]
    assert x.grad.tolist() == [2.0, 3.0]
    assert sum_over_ranks(torch.tensor([rank, 1])).tolist() == [1, 2]
    assert gather_tokens(torch.full((2, 3), float(rank))).tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    assert from_first_rank(torch.tensor([rank + 7])).tolist() == [7]
    Path(folder, f"{rank}.pt").write_text("")
    distributed.destroy_process_group()


def spawn(work: Callable[[int, int, str], None], folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, (port, str(folder)), nprocs=RANKS)


@pytest.fixture(scope="module")
def distributed_states(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder = tmp_path_factory.mktemp("ranks")
    spawn(train_all, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("name", NODES)
def test_two_processes_train_as_one(distributed_states: list[dict[str, dict[str, torch.Tensor]]], name: str) -> None:
    alone = trained(NODES[name], 0, 1)
    for state in distributed_states:
        for key, value in alone.items():
            torch.testing.assert_close(state[name][key], value, rtol=1e-4, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


def test_the_functions_over_two_ranks(tmp_path: Path) -> None:
    spawn(use_functions, tmp_path)
    assert len(list(tmp_path.iterdir())) == RANKS


def test_alone_every_function_gives_its_argument() -> None:
    x = torch.ones(2, 2)
    assert num_ranks() == 1
    assert sum_over_ranks(x) is mean_over_ranks(x) is gather_tokens(x) is from_first_rank(x) is x
