"""Record: run the very functions that train a candidate, on fake or real tensors, and take it down."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from autopeft.cost.estimate import UNCOUNTED
from autopeft.cost.loops import LOOPS
from autopeft.cost.tape import Category, Phase
from autopeft.cost.tracing.batches import assumptions, make_batch
from autopeft.cost.tracing.exported import parameters_of
from autopeft.cost.tracing.initialisers import held_on_host
from autopeft.cost.tracing.layers import find_stacks, followed, layer_of
from autopeft.cost.tracing.looped import LoopedStep, fuse_gelu, fuse_qkv, keep_4bit_inputs
from autopeft.cost.tracing.recorder import Recorder
from autopeft.cost.tracing.take import Job, Take
from autopeft.errors import UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import DTYPES, build_backbone, keep_cache
from autopeft.methods.quantization.convert import state_tensors
from autopeft.methods.quantization.kbit import prepare_kbit
from autopeft.methods.quantization.schemes import find_quantization
from autopeft.methods.registry import find_method
from autopeft.train.mezo import Mezo
from autopeft.train.optimizers import make_optimizer, off_device
from autopeft.train.step import Batch, objective, training_step
from autopeft.train.step import Phase as PhaseName

# The first micro-batch finds no gradients and every later one adds to them, so two show all.
MOST_MICRO_BATCHES = 2
_PHASES = {"forward": Phase.FORWARD, "backward": Phase.BACKWARD, "optimizer": Phase.OPTIMIZER}


def record(job: Job) -> Take:
    """Build, adapt and train on whatever tensors the active mode makes, real ones without a mode."""
    training = job.candidate.training
    recorder = Recorder(reads_values=job.reads_values)
    with _no_collector(), recorder:
        model = _adapted(job)
        if find_quantization(job.candidate.quantization).modelled:
            recorder.guesses[f"kernels of {job.candidate.quantization} written after their source"] = None
        preparation = find_method(job.candidate.method).preparation
        if preparation:
            recorder.guesses[f"{UNCOUNTED}: {preparation}"] = None
        model.train()
        optimizer = make_optimizer(model, training)
        if job.loop.disables_adapter and isinstance(model, PeftModel):
            with model.disable_adapter():
                pass
        stacks = find_stacks(model)
        _assign_model(recorder, model, stacks)
        if job.target == "cuda":
            recorder.forget(held_on_host(model, moved_whole=job.loop.moves_whole))
        watch = model.register_forward_hook(_note_logits(recorder))
        run = _step(job, model, optimizer)
        with followed(recorder, model):
            for step, (rows, length) in enumerate(job.shapes):
                gc.collect()
                _record_step(recorder, job, model, optimizer, run, step, rows, length)
        watch.remove()
        recorder.relabel_logits()
        config: Any = model.config
        if job.kind != "vision":  # whose images are as large as its processor makes them
            _, longest = max(job.shapes, key=lambda shape: shape[1])
            recorder.guesses |= dict.fromkeys(
                assumptions(config, job.base.family, job.task, longest, job.target_length)
            )
        recorded = recorder.arrays()
        whole = find_method(job.candidate.method).exports == "model"
        with recorder.without_operators():  # still there to answer where peft reads a value to save a prompt
            parameters = tuple(parameters_of(model, stacks, whole=whole))
    depths = tuple(len(stack) for stack in stacks.values())
    return Take(job=job, parameters=parameters, depths=depths, **recorded)


def _adapted(job: Job) -> nn.Module:
    """Build and adapt the model as the job's loop does."""
    candidate, loop = job.candidate, job.loop
    training = candidate.training
    backbone = build_backbone(
        job.base, job.task, job.labels, training, weights=False, quantization=candidate.quantization
    )
    if loop.upcasts_kbit and candidate.quantization != "none":
        prepare_kbit(backbone, gradient_checkpointing=training.gradient_checkpointing)
    if training.gradient_checkpointing and loop.checkpoints_reentrant:
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    keep_cache(backbone, keep=loop.keeps_cache and not training.gradient_checkpointing)
    if training.attention == "eager":
        backbone.set_attn_implementation("eager")
    model = adapt(backbone, candidate, job.task, adapter_fp32=loop.adapter_fp32)
    if find_quantization(candidate.quantization).library == "bitsandbytes" and not loop.kbit_adapter_fp32:
        for parameter in trainable(model):
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


Step = Callable[[Iterator[Batch], Callable[[PhaseName], None]], object]


def _step(job: Job, model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    training = job.candidate.training
    if job.loop == LOOPS["autopeft"]:
        loss = objective(job.task)
        return lambda batches, enter: training_step(model, batches, optimizer, training, enter, of=loss)
    if isinstance(optimizer, Mezo):
        raise UnsupportedError(
            f"mezo steps without backward, which the loop {job.loop.name} does not: use autopeft's."
        )
    if job.loop.fused_qkv:
        fuse_qkv(model)
    if job.loop.fuses_gelu:
        fuse_gelu(model)
    if job.loop.keeps_4bit_inputs:
        keep_4bit_inputs(model)
    return LoopedStep(model, optimizer, training, job.loop, job.task).take


def _record_step(
    recorder: Recorder,
    job: Job,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: Step,
    step: int,
    rows: int,
    length: int,
) -> None:
    places = dict(zip(map(id, trainable(model)), _layers_of(model, find_stacks(model)), strict=True))
    micro_batch = -1

    def enter(name: PhaseName) -> None:
        for parameter in trainable(model):
            if parameter.grad is not None:
                recorder.assign([parameter.grad], Category.GRADIENTS)
                recorder.place(parameter.grad, places[id(parameter)])
        recorder.enter(step, micro_batch, _PHASES[name])

    def batches() -> Iterator[Batch]:
        nonlocal micro_batch
        for _ in range(micro_batches(job)):
            micro_batch += 1
            enter("forward")
            with recorder.without_operators():
                batch = _batch(job, model.config, rows, length)
            recorder.assign(batch.values(), Category.OTHER)
            yield batch

    run(batches(), enter)
    for parameter, state in optimizer.state.items():
        for tensor in state.values():
            if isinstance(tensor, torch.Tensor):
                recorder.assign([tensor], Category.OPTIMIZER)
                recorder.place(tensor, places.get(id(parameter), -1))
    if job.target == "cuda":
        recorder.forget(off_device(optimizer))


def micro_batches(job: Job) -> int:
    """Return how many micro-batches of a step are traced."""
    return min(MOST_MICRO_BATCHES, job.candidate.training.grad_accum)


def _batch(job: Job, config: Any, rows: int, length: int) -> Batch:
    """Make a batch of the shape that the trainer makes."""
    return make_batch(
        config,
        job.base.family,
        job.task,
        rows=rows,
        length=length,
        padded=job.padded,
        labels=job.labels,
        packed=job.packed,
        target_length=job.target_length,
        dtype=DTYPES[job.candidate.training.precision],
    )


def _assign_model(recorder: Recorder, model: nn.Module, stacks: dict[str, nn.ModuleList]) -> None:
    recorder.assign(model.buffers(), Category.WEIGHTS)
    recorder.assign((p for p in model.parameters() if not p.requires_grad), Category.WEIGHTS)
    recorder.assign(state_tensors(model), Category.QUANTIZATION)
    recorder.assign(trainable(model), Category.ADAPTER)
    for named in (model.named_buffers(), model.named_parameters()):
        for name, tensor in named:
            recorder.place(tensor, layer_of(name, stacks))
    for name, module in model.named_modules():
        layer = layer_of(name, stacks)
        if layer >= 0 and isinstance(module, nn.Linear):
            for tensor in state_tensors(module):
                recorder.place(tensor, layer)


def _layers_of(model: nn.Module, stacks: dict[str, nn.ModuleList]) -> Iterator[int]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield layer_of(name, stacks)


def _note_logits(recorder: Recorder) -> Any:
    def hook(module: nn.Module, args: object, output: Any) -> None:
        del module, args
        logits = getattr(output, "logits", None)
        if isinstance(logits, torch.Tensor):
            recorder.logits_sizes.add((recorder.spans[-1].step, logits.numel()))

    return hook


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
