"""Train for two steps in several processes of this machine and count what each of them holds.

Gradients, weights and states are counted in the storages of the tensors; the level at rest and the peak
are those of every allocation that torch's profiler sees on the CPU, collectives included.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.space.candidate import Candidate
from autopeft.train.step import make_optimizer, training_step
from autopeft.workload.base_model import BaseModel

STEPS = 2
LAST = "last step"


def measure(
    base: BaseModel, candidate: Candidate, length: int, ranks: int, sharding: str, folder: Path
) -> list[dict[str, int]]:
    """Return what each rank holds, in bytes by category."""
    context = torch.multiprocessing.get_context("spawn")
    what = base.model_dump_json(), candidate.model_dump_json(), length, ranks, sharding, _free_port()
    workers = [
        context.Process(target=_rank, args=(rank, *what, str(folder / f"{rank}.json")))
        for rank in range(ranks)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a rank ended with status {worker.exitcode}")
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


def _rank(
    rank: int,
    base_json: str,
    candidate_json: str,
    length: int,
    ranks: int,
    sharding: str,
    port: int,
    out: str,
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    base = BaseModel.model_validate_json(base_json)
    candidate = Candidate.model_validate_json(candidate_json)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        found, *alive = _train(base, candidate, length, ranks, sharding)
    levels = _levels(profiler)
    found |= {"peak": max(levels), "at_rest": levels[-1]}
    del alive
    Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()


def _train(
    base: BaseModel, candidate: Candidate, length: int, ranks: int, sharding: str
) -> tuple[dict[str, int], nn.Module, torch.optim.Optimizer]:
    """Train, and return the bytes with what shall stay alive until all levels are noted."""
    training = candidate.training
    torch.manual_seed(0)
    backbone = build_backbone(base, "sft", 0, training, weights=False)
    model: nn.Module = adapt(backbone, candidate, "sft")
    model.train()
    if sharding == "fsdp":
        mesh = init_device_mesh("cpu", (ranks,))
        for block in _blocks(model, base.layers):
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif sharding == "ddp":
        model = DistributedDataParallel(model)
    optimizer = make_optimizer(model, training)
    gradients: list[int] = []

    def enter(phase: str) -> None:
        if phase == "optimizer":
            gradients.append(_bytes(each.grad for each in trainable(model) if each.grad is not None))

    generator = torch.Generator().manual_seed(dist.get_rank())
    for step in range(STEPS):
        if step == STEPS - 1:
            with torch.profiler.record_function(LAST):
                pass
        ids = torch.randint(8, base.config["vocab_size"], (training.batch_size, length), generator=generator)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        loss = training_step(model, [batch], optimizer, training, enter)
        del ids, batch, loss
    states = [value for state in optimizer.state.values() for value in state.values()]
    tensors = [value for value in states if isinstance(value, torch.Tensor)]
    trained = trainable(model)
    known = {id(each) for each in trained}
    frozen = [each for each in model.parameters() if id(each) not in known]
    held = {
        "weights": _bytes(frozen) + _bytes(model.buffers()),
        "adapter": _bytes(trained),
        "gradients": gradients[-1],
        "optimizer": _bytes(tensors),
    }
    return held, model, optimizer


def _blocks(model: nn.Module, layers: int) -> Iterable[nn.Module]:
    """Return the layers: the entries of the one list that is as long as the model is deep."""
    return next(each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == layers)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the storages of this rank's parts, each once."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        storage = local.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _levels(profiler: Any) -> list[int]:
    """Return the allocated bytes after each allocation and release from the last step on.

    Before it, wrapping a model copies its weights once more to send them to the other ranks.
    """
    events = profiler.profiler.kineto_results.events()
    begin = next(event.start_ns() for event in events if event.name() == LAST)
    moments = [
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]" and event.device_type() == torch.autograd.DeviceType.CPU
    ]
    level, levels = 0, []
    for at, change in sorted(moments, key=lambda moment: moment[0]):
        level += change
        if at >= begin:
            levels.append(level)
    return levels


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
