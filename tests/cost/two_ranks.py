"""One rank of a plain torch run with a frozen and a trained half: `python two_ranks.py RANK RANKS PORT`."""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

WIDTH, LAYERS = 64, 4


def build() -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    for layer in model[1::2]:
        layer.requires_grad_(requires_grad=False)
    return model


def held(model: nn.Module) -> dict[str, int]:
    """Train two steps and return the bytes that this rank holds."""
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(3, WIDTH)).sum().backward()
        optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    return {
        "weights": size(each for each in model.parameters() if not each.requires_grad),
        "adapter": size(trained),
        "gradients": size(each.grad for each in trained),
        "optimizer": size(states),
    }


def size(tensors) -> int:
    local = [each.to_local() if hasattr(each, "to_local") else each for each in tensors]
    return sum(each.numel() * each.element_size() for each in local)


def main() -> None:
    rank, ranks, port = map(int, sys.argv[1:])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    mesh, sharded = init_device_mesh("cpu", (ranks,)), build()
    for layer in sharded:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    found = {"ddp": held(DistributedDataParallel(build())), "fsdp": held(sharded)}
    sys.stdout.write(json.dumps(found))
    sys.stdout.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
