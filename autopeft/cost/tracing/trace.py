"""Trace: run the very functions that train a candidate, on fake tensors, and return the tape."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from autopeft.cost.tape import Category, Phase, Tape
from autopeft.cost.tracing.recorder import Recorder
from autopeft.cost.tracing.request import TraceRequest, versions
from autopeft.cost.tracing.shims import traced_as
from autopeft.errors import UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.registry import find_method, require_support
from autopeft.train.step import Batch, make_optimizer, training_step
from autopeft.train.step import Phase as PhaseName

# The first micro-batch finds no gradients and every later one adds to them, so two show all.
_MOST_MICRO_BATCHES = 2
_PHASES = {"forward": Phase.FORWARD, "backward": Phase.BACKWARD, "optimizer": Phase.OPTIMIZER}
# What the model's own code raises where it cannot run on fake tensors, or not at all.
_UNTRACEABLE = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError)
_FAILURES = (*_UNTRACEABLE, NotImplementedError, RuntimeError, TypeError, ValueError)


def trace(request: TraceRequest) -> Tape:
    """Trace one candidate at full depth: a step at each of the request's lengths.

    Nothing but weights and optimizer state outlives a step, as in autopeft's trainer.

    Raises:
        InputError: the candidate does not suit the model.
        UnsupportedError: the model's or method's code cannot run on fake tensors, or not at all.
    """
    require_support(request.candidate, request.base, request.task)
    with _FakeMode(allow_non_fake_inputs=True), traced_as(request.target, padded=request.padded):
        try:
            return record(request)
        except _FAILURES as error:
            reason = str(error).strip().partition("\n")[0] or "no message"
            raise UnsupportedError(
                f"{request.candidate.method} on {request.base.name} cannot be traced: "
                f"{type(error).__name__}: {reason}"
            ) from error


class _FakeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """A mode that stays one when a fake tensor is deep-copied, as peft does with heads it trains.

    torch 2.13 copies the mode with the tensor, and in it counted references to storages without
    counting them again: each is given back twice, which corrupts the heap.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the mode itself."""
        del memo
        return self


def record(request: TraceRequest) -> Tape:
    """Build, adapt and train on whatever tensors the active mode makes, real ones without a mode."""
    training = request.candidate.training
    recorder = Recorder()
    with _no_collector(), recorder:
        backbone = build_backbone(request.base, request.task, request.labels, training, weights=False)
        model = adapt(backbone, request.candidate, request.task)
        del backbone
        model.train()
        optimizer = make_optimizer(model, training)
        _assign_model(recorder, model)
        watch = model.register_forward_hook(_note_logits(recorder))
        for step, length in enumerate(request.lengths):
            gc.collect()
            _record_step(recorder, request, model, optimizer, step, length)
        watch.remove()
        return _finish(recorder, request, model)


def _record_step(
    recorder: Recorder,
    request: TraceRequest,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    length: int,
) -> None:
    parameters = trainable(model)
    micro_batch = -1

    def enter(name: PhaseName) -> None:
        recorder.assign((p.grad for p in parameters if p.grad is not None), Category.GRADIENTS)
        recorder.enter(step, micro_batch, _PHASES[name])

    def batches() -> Iterator[Batch]:
        nonlocal micro_batch
        for _ in range(_micro_batches(request)):
            micro_batch += 1
            enter("forward")
            with recorder.without_operators():
                batch = _batch(request, length)
            recorder.assign(batch.values(), Category.OTHER)
            yield batch

    training_step(model, batches(), optimizer, request.candidate.training, enter)
    for state in optimizer.state.values():
        tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        if request.target == "cuda" and "step" in tensors:
            recorder.forget([tensors.pop("step")])  # AdamW counts its steps on the host
        recorder.assign(tensors.values(), Category.OPTIMIZER)


def _batch(request: TraceRequest, length: int) -> Batch:
    """Make a batch of the shape that the trainer makes."""
    ids = torch.ones((request.rows, length), dtype=torch.int64)
    mask = torch.ones_like(ids)
    if request.padded:
        mask[0, -1] = 0
    labels = ids.clone() if request.task == "sft" else torch.zeros(request.rows, dtype=torch.int64)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _assign_model(recorder: Recorder, model: nn.Module) -> None:
    recorder.assign(model.buffers(), Category.WEIGHTS)
    recorder.assign((p for p in model.parameters() if not p.requires_grad), Category.WEIGHTS)
    recorder.assign(trainable(model), Category.ADAPTER)


def _note_logits(recorder: Recorder) -> Any:
    def hook(module: nn.Module, args: object, output: Any) -> None:
        del module, args
        logits = getattr(output, "logits", None)
        if isinstance(logits, torch.Tensor):
            recorder.logits_sizes.add(logits.numel())

    return hook


def _finish(recorder: Recorder, request: TraceRequest, model: nn.Module) -> Tape:
    recorder.relabel_logits()
    parameters = list(model.parameters())
    whole = find_method(request.candidate.method).exports == "model"
    return Tape(
        target=request.target,
        rows=request.rows,
        lengths=request.lengths,
        micro_batches=_micro_batches(request),
        trainable_params=sum(p.numel() for p in trainable(model)),
        total_params=sum(p.numel() for p in parameters),
        adapter_bytes=sum(p.numel() * p.element_size() for p in (parameters if whole else trainable(model))),
        versions=versions(),
        **recorder.arrays(),
    )


def _micro_batches(request: TraceRequest) -> int:
    return min(_MOST_MICRO_BATCHES, request.candidate.training.grad_accum)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the cycle collector from freeing tensors at moments that depend on what ran before."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
