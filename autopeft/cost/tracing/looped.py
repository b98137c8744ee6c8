"""Steps as other training loops take them: what `cost/loops.py` says, done around the same model.

autopeft's own loop is not here: it is `train/step.py` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.activations import FastGELUActivation, NewGELUActivation

from autopeft.cost.loops import Loop
from autopeft.methods.adapt import trainable
from autopeft.methods.backbone import DTYPES
from autopeft.space.candidate import Training
from autopeft.train.step import Batch, Phase, forward_loss, objective
from autopeft.workload.tasks import TASKS, Task

# What CUDA's autocast computes in fp32 and a CPU's does not; the rest of both lists agrees as far as
# transformers' models go. See aten/src/ATen/autocast_mode.h.
_IN_FP32 = frozenset(
    (
        functional.layer_norm,
        torch.layer_norm,
        functional.softmax,
        torch.softmax,
        torch.Tensor.softmax,
        functional.log_softmax,
        torch.log_softmax,
        functional.cross_entropy,
        functional.nll_loss,
        torch.pow,
        torch.Tensor.pow,
        torch.rsqrt,
        torch.Tensor.rsqrt,
        torch.exp,
        torch.Tensor.exp,
        torch.norm,
        torch.Tensor.norm,
    )
)


class LoopedStep:
    """One optimizer step after another, with what outlives them."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        training: Training,
        loop: Loop,
        task: Task = "sft",
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.training = training
        self.loop = loop
        self._task = task
        self._outputs: Any = None

    def take(self, batches: Iterable[Batch], enter: Callable[[Phase], None]) -> None:
        """Take one step over the micro-batches."""
        for place, batch in enumerate(batches):
            enter("forward")
            if self.loop.zeroes_first and place == 0:
                self.optimizer.zero_grad(set_to_none=True)
            loss = self._forward(batch)
            enter("backward")
            loss.backward()  # type: ignore[no-untyped-call]
            if self.loop.keeps == "until-backward":
                self._outputs = None
            if self.loop.keeps == "loss":
                del loss
        enter("optimizer")
        if self.loop.clips:
            nn.utils.clip_grad_norm_(trainable(self.model), self.training.max_grad_norm)
        self.optimizer.step()
        if not self.loop.zeroes_first:
            self.optimizer.zero_grad(set_to_none=True)

    def _forward(self, batch: Batch) -> torch.Tensor:
        with _casting(self.loop, self.training):
            if self.training.loss != "standard" or TASKS[self._task].reference:
                return forward_loss(self.model, batch, self.training, objective(self._task))
            if self.loop.logits_chunk and "input_ids" in batch and batch["labels"].dim() > 1:
                outputs, loss = self._chunked(batch)
            else:
                outputs, loss = self._whole(batch)
        if self.loop.keeps != "loss":
            self._outputs = (outputs, loss)
        return loss

    def _whole(self, batch: Batch) -> tuple[Any, torch.Tensor]:
        if self.loop.upcasts_logits and batch["labels"].dim() > 1:
            labels = batch["labels"]
            outputs = self.model(**{name: value for name, value in batch.items() if name != "labels"})
            outputs["logits"] = outputs["logits"].float()
            shifted = outputs["logits"][..., :-1, :].contiguous()
            loss = functional.cross_entropy(
                shifted.view(-1, shifted.shape[-1]), labels[..., 1:].contiguous().view(-1)
            )
        else:
            outputs = self.model(**batch)
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs.loss
        if self.loop.converts_outputs and _half(self.training) and "logits" in outputs:
            outputs["logits"] = outputs["logits"].float()
        return outputs, loss

    def _chunked(self, batch: Batch) -> tuple[Any, torch.Tensor]:
        """Apply the head to chunks of tokens, as litgpt does; all chunks live until the next forward."""
        head = self.model.get_output_embeddings()  # type: ignore[operator]
        given = {name: value for name, value in batch.items() if name != "labels"}
        pieces: list[torch.Tensor] = []

        def cut(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            del module
            pieces.append(args[0])
            return (args[0][:, :0],)

        hook = head.register_forward_pre_hook(cut)
        self.model(**given, use_cache=False)
        hook.remove()
        hidden = pieces.pop()
        chunks = [head(piece) for piece in torch.split(hidden, self.loop.logits_chunk, dim=1)]
        if self.loop.converts_outputs and _half(self.training):
            chunks = [chunk.float() for chunk in chunks]
        chunks[-1] = chunks[-1][..., :-1, :]
        flat = [chunk.reshape(-1, chunk.shape[-1]) for chunk in chunks]
        targets = torch.split(batch["labels"][..., 1:].reshape(-1), [len(chunk) for chunk in flat])
        losses = [
            functional.cross_entropy(chunk, target, reduction="none")
            for chunk, target in zip(flat, targets, strict=True)
        ]
        return chunks, torch.cat(losses).mean()


@contextmanager
def _casting(loop: Loop, training: Training) -> Iterator[None]:
    with ExitStack() as stack:
        if loop.autocast and _half(training):
            stack.enter_context(torch.autocast("cpu", DTYPES[training.precision]))
            stack.enter_context(_CudaAutocast())
        yield


class _CudaAutocast(TorchFunctionMode):
    """Adds to a CPU's autocast what only CUDA's computes in fp32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        if func in _IN_FP32:
            args = tuple(_raised(each) for each in args)
        return func(*args, **(kwargs or {}))


def _raised(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _half(training: Training) -> bool:
    return training.precision != "fp32"


def fuse_qkv(model: nn.Module) -> None:
    """Make value projections return a slice of what would hold query, key and value together."""
    for layer in model.modules():
        parts = [getattr(layer, name, None) for name in ("q_proj", "k_proj", "v_proj")]
        if all(isinstance(part, nn.Module) and hasattr(part, "out_features") for part in parts):
            query, key, value = (part for part in parts if isinstance(part, nn.Module))
            width = int(query.out_features) + int(key.out_features)  # type: ignore[arg-type]
            value.register_forward_hook(_slice_after(width))


def _slice_after(width: int) -> Any:
    def hook(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        del module, args
        whole = torch.cat((output.new_empty((*output.shape[:-1], width)), output), dim=-1)
        return whole[..., width:]

    return hook


def fuse_gelu(model: nn.Module) -> None:
    """Exchange GELUs that are written out in operators, each of which keeps its input, for the kernel."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, nn.GELU("tanh"))


def keep_4bit_inputs(model: nn.Module) -> None:
    """Make 4-bit layers keep their input on a node of the graph, as bitsandbytes once did."""
    for module in model.modules():
        if getattr(getattr(module, "weight", None), "quant_type", None) in ("nf4", "fp4"):
            module.register_forward_pre_hook(_keep_input)


def _keep_input(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    del module
    return (_Kept.apply(args[0]), *args[1:])  # type: ignore[no-untyped-call]


class _Kept(torch.autograd.Function):
    """Passes its input on and holds it as an attribute, which lives as long as the graph does."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        ctx.kept = value
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        del ctx
        return gradients[0]
