"""Running a language model up to its head, and noting what it would do to the logits behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopeft.errors import UnsupportedError

# What changes no value: the loss is taken in fp32 from what the head returns.
_NOTHING = ("to", "float", "contiguous")


class Logits:
    """Stands for the logits while the model handles them; it holds none and notes what is done.

    Attributes:
        before, bent, after: real logits x become after * tanh(before * x), or after * x where not bent.
    """

    def __init__(self, before: float = 1.0, after: float = 1.0, *, bent: bool = False) -> None:
        """Stand for logits as they come from the head."""
        self.before, self.after, self.bent = before, after, bent

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        """Do to real logits what was noted."""
        if self.bent:
            logits = torch.tanh(logits * self.before if self.before != 1.0 else logits)
        return logits * self.after if self.after != 1.0 else logits

    def __mul__(self, factor: object) -> Logits:
        if isinstance(factor, torch.Tensor) or not isinstance(factor, int | float):
            raise _unknown("a product with a tensor")
        return Logits(self.before, self.after * factor, bent=self.bent)

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Logits:
        if isinstance(divisor, torch.Tensor) or not isinstance(divisor, int | float):
            raise _unknown("a division by a tensor")
        return self * (1.0 / divisor)

    def _refuse(self, other: object) -> Logits:
        del other
        raise _unknown("more than a scale and a soft cap")

    __add__ = __radd__ = __sub__ = __getitem__ = __pow__ = _refuse

    def tanh(self) -> Logits:
        """Note a soft cap."""
        if self.bent:
            raise _unknown("a second tanh")
        return Logits(self.after, bent=True)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Logits:
        """Take what is written as a function of torch."""
        del types, kwargs
        if func is torch.tanh:
            noted: Logits = args[0].tanh()
            return noted
        raise _unknown(getattr(func, "__name__", str(func)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _NOTHING:
            return self._unchanged
        raise _unknown(name)

    def _unchanged(self, *args: object, **kwargs: object) -> Logits:
        del args, kwargs
        return self


@dataclass(frozen=True)
class Headless:
    """What a model without its head returned.

    Attributes:
        hidden: what the head would have been given, (rows, places, width).
        logits: what would have been done to the logits.
        output: the model's own output.
    """

    hidden: torch.Tensor
    logits: Logits
    output: Any


def run_headless(model: nn.Module, inputs: Mapping[str, torch.Tensor], head: nn.Module) -> Headless:
    """Run a model with a stand-in for its head.

    Raises:
        UnsupportedError: the model does not call its head once, or does more to its logits than
            `Logits` can note.
    """
    with _replaced(head) as seen:
        output = model(**inputs)
    logits = getattr(output, "logits", None)
    if len(seen) != 1 or not isinstance(logits, Logits):
        raise _unknown(f"{len(seen)} calls of the head")
    return Headless(seen[0], logits, output)


@contextmanager
def _replaced(head: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Make a head return a stand-in; yields the list of what it was given."""
    seen: list[torch.Tensor] = []

    def forward(hidden: torch.Tensor) -> Logits:
        seen.append(hidden)
        return Logits()

    own = head.__dict__.get("forward")
    head.forward = forward
    try:
        yield seen
    finally:
        del head.forward
        if own is not None:
            head.forward = own


def _unknown(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"this model computes its logits in a way that only loss=standard can take ({what}); choose that."
    )
