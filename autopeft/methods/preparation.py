"""What a preparation is: a function that changes an adapted model with a few batches of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from autopeft.space.candidate import Candidate

Batches = Iterable[Mapping[str, Tensor]]
Loss = Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
Preparation = Callable[[nn.Module, Candidate, Batches, Loss], None]
Kept = Mapping[str, Tensor]
"""Parameters that train and buffers of a prepared model, by name, as a checkpoint holds them."""
