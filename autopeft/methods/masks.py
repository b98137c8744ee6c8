"""Where a sparse update is: the entries that a few batches of the data show to matter.

FISH mask (Sung et al. 2021, arXiv:2111.09839, section 3.1): the largest entries of the empirical Fisher
information, the mean over rows of the squared gradient of a row's loss.

LT-SFT (Ansell et al. 2022, arXiv:2110.07560, section 3.1): all entries train for some steps; those that moved
most are chosen, and start from their old values again.

Diff pruning (Guo et al. 2021, arXiv:2012.07463, sections 3.1 to 3.3): all entries of D = z w train for some
steps, where z is a hard-concrete gate of each entry and the expected number of open gates is penalised; the
largest entries of D are chosen (projection onto the L0-ball) and go on training from their values. Left out:
its structured variant, which shares gates among the entries of a matrix.

Entries of all target matrices compete for one total. A task's head trains along and is put back afterwards.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autopeft.methods.preparation import Batches, Kept, Loss
from autopeft.methods.registry import complete, number_of
from autopeft.methods.sparse import SparseLayer
from autopeft.space.candidate import Candidate

# Of the hard-concrete distribution: its stretched ends, and where gates start (the authors' settings).
_LOW, _HIGH, _START = -1.5, 1.5, 5.0


class Dense(nn.Module):
    """An update of all entries, which starts at zero."""

    def __init__(self, layer: SparseLayer, device: torch.device) -> None:
        """Make it for a layer's matrix."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layer.shape, device=device))

    def forward(self) -> torch.Tensor:
        """Return the update, (out, in)."""
        return self.weight


class Gated(Dense):
    """An update whose every entry is multiplied by a gate that may close to exactly zero."""

    def __init__(self, layer: SparseLayer, device: torch.device) -> None:
        """Make it for a layer's matrix, nearly all gates open."""
        super().__init__(layer, device)
        self.openness = nn.Parameter(torch.full(layer.shape, _START, device=device))

    def forward(self) -> torch.Tensor:
        """Draw gates while training, take their medians otherwise; return the update, (out, in)."""
        noise: torch.Tensor | float = 0.0
        if self.training:
            noise = torch.logit(torch.rand_like(self.openness).clamp(1e-6, 1 - 1e-6))
        stretched = torch.sigmoid(self.openness + noise) * (_HIGH - _LOW) + _LOW
        return self.weight * stretched.clamp(0, 1)

    def expected_open(self) -> torch.Tensor:
        """Return how many gates are open on average (equation 4)."""
        shift = torch.log(torch.tensor(-_LOW / _HIGH, device=self.openness.device))
        return torch.sigmoid(self.openness - shift).sum()


def by_fisher(model: nn.Module, candidate: Candidate, batches: Batches, loss: Loss) -> None:
    """Choose the entries of the largest squared gradients, row by row."""
    rows = int(number_of(complete(candidate), "rows", least=1))
    with _all_entries(model, Dense) as layers:
        squares = [torch.zeros_like(_dense(layer).weight) for layer in layers]
        for layer, square in zip(layers, squares, strict=True):
            weight: Any = _dense(layer).weight
            weight.register_post_accumulate_grad_hook(_collector(square))
        for row in itertools.islice(_rows(batches), rows):
            loss(model, row).backward()  # type: ignore[no-untyped-call]
    _choose(model, layers, squares, [torch.zeros_like(square) for square in squares])


def by_warm_up(model: nn.Module, candidate: Candidate, batches: Batches, loss: Loss) -> None:
    """Choose the entries that moved most, and put them back."""
    with _all_entries(model, Dense) as layers:
        _train(model, layers, candidate, batches, loss)
    moved = [_dense(layer).weight.detach() for layer in layers]
    _choose(model, layers, [each.abs() for each in moved], [torch.zeros_like(each) for each in moved])


def by_gates(model: nn.Module, candidate: Candidate, batches: Batches, loss: Loss) -> None:
    """Choose the entries that are largest behind their gates, and keep their values."""
    penalty = number_of(complete(candidate), "penalty")

    def penalised(whole: nn.Module, batch: Any) -> torch.Tensor:
        counts = [each.expected_open() for each in whole.modules() if isinstance(each, Gated)]
        return loss(whole, batch) + penalty * torch.stack(counts).sum()

    with _all_entries(model, Gated) as layers:
        _train(model, layers, candidate, batches, penalised)
        with torch.no_grad():
            updates = [_dense(layer).eval()() for layer in layers]
    _choose(model, layers, [each.abs() for each in updates], updates)


def put_back(model: nn.Module, kept: Kept) -> None:
    """Update the entries again that were chosen before."""
    peft: Any = model
    adapter = peft.active_adapter
    counts = {}
    names = {id(module): name for name, module in peft.base_model.model.named_modules()}
    for name, layer in peft.named_modules():
        if isinstance(layer, SparseLayer):
            device = layer.sparse_values[adapter].device
            places = kept[f"{name}.sparse_places.{adapter}"].to(device)
            layer.choose(adapter, places, kept[f"{name}.sparse_values.{adapter}"].to(device))
            counts[names[id(layer)]] = len(places)
    peft.peft_config[adapter].counts = counts


@contextmanager
def _all_entries(model: nn.Module, kind: type[Dense]) -> Iterator[list[SparseLayer]]:
    """Let all entries be updated instead of the chosen ones; put back what else trains, and the mode."""
    layers = [module for module in model.modules() if isinstance(module, SparseLayer)]
    others = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in others]
    mode = model.training
    for layer in layers:
        layer.dense = kind(layer, next(layer.get_base_layer().parameters()).device)
    model.train()
    yield layers
    model.train(mode)
    with torch.no_grad():
        for parameter, value in zip(others, before, strict=True):
            parameter.copy_(value)
            parameter.grad = None


def _train(
    model: nn.Module, layers: Sequence[SparseLayer], candidate: Candidate, batches: Batches, loss: Loss
) -> None:
    """Train all entries, and what else trains but the sparse values, with AdamW at the candidate's rate."""
    steps = int(number_of(complete(candidate), "steps", least=1))
    values = {id(value) for layer in layers for value in layer.sparse_values.values()}
    parameters = [p for p in model.parameters() if p.requires_grad and id(p) not in values]
    optimizer = torch.optim.AdamW(parameters, lr=candidate.training.learning_rate, weight_decay=0.0)
    for batch in itertools.islice(batches, steps):
        loss(model, batch).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, candidate.training.max_grad_norm)
        optimizer.step()
        model.zero_grad(set_to_none=True)


def _choose(
    model: nn.Module,
    layers: Sequence[SparseLayer],
    scores: Sequence[torch.Tensor],
    updates: Sequence[torch.Tensor],
) -> None:
    """Update the entries of the highest scores from now on, as many in all as before."""
    peft: Any = model
    adapter = peft.active_adapter
    total = sum(layer.sparse_values[adapter].numel() for layer in layers)
    flat = torch.cat([score.flatten() for score in scores])
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[flat.topk(total).indices] = True
    masks = torch.split(chosen, [score.numel() for score in scores])
    counts = {}
    names = {id(module): name for name, module in peft.base_model.model.named_modules()}
    for layer, mask, update in zip(layers, masks, updates, strict=True):
        layer.dense = None
        places = mask.nonzero().flatten()
        layer.choose(adapter, places, update.flatten()[places].clone())
        counts[names[id(layer)]] = len(places)
    peft.peft_config[adapter].counts = counts


def _dense(layer: SparseLayer) -> Dense:
    dense: Any = layer.dense
    whole: Dense = dense
    return whole


def _collector(square: torch.Tensor) -> Callable[[torch.Tensor], None]:
    """Return a hook that adds a gradient's square to a sum, and frees it."""

    def collect(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            square.addcmul_(parameter.grad, parameter.grad)
            parameter.grad = None

    return collect


def _rows(batches: Batches) -> Iterator[dict[str, torch.Tensor]]:
    for batch in batches:
        for row in range(len(batch["labels"])):
            yield {name: tensor[row : row + 1] for name, tensor in batch.items()}
