"""Recorder: a dispatch mode that writes down every storage's birth and death and every operator.

It works on fake tensors, which is how candidates are costed, and on real ones, which is how the
tests show that the fake tape is the true one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode

from autopeft.cost.tape import Category, Phase, Span
from autopeft.cost.tracing.operators import bytes_of, dtype_of, flops_of, kind_of, runs, tensors_in

_aten = torch.ops.aten
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records events, operators and spans while it is active.

    A block's category starts as TEMPORARY (OTHER while the model is built) and is corrected by
    `assign` as soon as it is known what the block is for.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []
        self.elements: list[int] = []
        self.categories: list[Category] = []
        self.events: list[int] = []
        self.operators: list[tuple[str, float, float, str, int]] = []
        self.spans: list[Span] = [Span(-1, 0, Phase.BUILD, 0, 0)]
        self.guesses: dict[str, None] = {}
        self.logits_sizes: set[int] = set()
        self._blocks: dict[int, int] = {}  # address of a storage -> block
        self._guards: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def enter(self, step: int, micro_batch: int, phase: Phase) -> None:
        """Begin a phase; what forward leaves alive when backward begins was saved for it."""
        if phase is Phase.BACKWARD:
            for block in self._blocks.values():
                if self.categories[block] is Category.TEMPORARY:
                    self.categories[block] = Category.SAVED
        now = Span(step, micro_batch, phase, len(self.events), len(self.operators))
        if self.spans[-1][:3] != now[:3]:
            self.spans.append(now)

    def assign(self, tensors: Iterable[torch.Tensor], category: Category) -> None:
        """Say what tensors are for; one that nobody saw being born is recorded as born now."""
        for tensor in tensors:
            block = self._note(tensor)
            if block is not None:
                self.categories[block] = category

    def forget(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take tensors as held elsewhere than on the traced device: their blocks have no size."""
        for tensor in tensors:
            block = self._note(tensor)
            if block is not None:
                self.sizes[block] = 0

    def relabel_logits(self) -> None:
        """Take every activation of as many elements as the logits for one of their copies."""
        for block, count in enumerate(self.elements):
            activation = self.categories[block] in (Category.SAVED, Category.TEMPORARY)
            if activation and count in self.logits_sizes:
                self.categories[block] = Category.LOGITS

    @contextmanager
    def without_operators(self) -> Iterator[None]:
        """Write down no operators: what happens here is done ahead of the step."""
        count = len(self.operators)
        yield
        del self.operators[count:]

    def arrays(self) -> dict[str, Any]:
        """Return what was recorded as the fields of a `Tape`."""
        names: dict[str, int] = {}
        dtypes: dict[str, int] = {}
        for name, _, _, dtype, _ in self.operators:
            names.setdefault(name, len(names))
            dtypes.setdefault(dtype, len(dtypes))
        return {
            "spans": tuple(self.spans),
            "names": tuple(names),
            "dtypes": tuple(dtypes),
            "guesses": tuple(self.guesses),
            "block_bytes": np.array(self.sizes, dtype=np.int64),
            "block_category": np.array(self.categories, dtype=np.int8),
            "events": np.array(self.events, dtype=np.int32),
            "operators": np.array([names[each[0]] for each in self.operators], dtype=np.int32),
            "operator_flops": np.array([each[1] for each in self.operators], dtype=np.float64),
            "operator_bytes": np.array([each[2] for each in self.operators], dtype=np.float64),
            "operator_dtype": np.array([dtypes[each[3]] for each in self.operators], dtype=np.int8),
            "operator_kind": np.array([each[4] for each in self.operators], dtype=np.int8),
        }

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator and write it down."""
        del types
        named = kwargs or {}
        out = self._run(func, args, named)
        for tensor in tensors_in(out):
            self._note(tensor)
        if self.spans[-1].step >= 0 and runs(func):
            cost = flops_of(func, args, named, out), bytes_of(func, args, named, out)
            self.operators.append((func._schema.name, *cost, dtype_of(args, out), kind_of(func)))
        return out

    def _note(self, tensor: torch.Tensor) -> int | None:
        """Return the block of a tensor's storage, recording its birth if it is new."""
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._blocks:
            return self._blocks[address]
        if storage.nbytes() == 0:
            return None
        block = len(self.sizes)
        self.sizes.append(storage.nbytes())
        self.elements.append(tensor.numel())
        building = self.spans[-1].phase is Phase.BUILD
        self.categories.append(Category.OTHER if building else Category.TEMPORARY)
        self.events.append(block)
        self._blocks[address] = block
        self._guards[address] = weakref.ref(storage, self._death(address, block))
        return block

    def _death(self, address: int, block: int) -> Callable[[object], None]:
        def record(_: object) -> None:
            self.events.append(~block)
            del self._blocks[address], self._guards[address]

        return record

    def _run(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator; where its result depends on values nobody has, answer with a guess."""
        if func in _INDEXING and any(_is_fake_mask(index) for index in args[1]):
            args = (args[0], self._chosen(args[1]), *args[2:])
        try:
            return func(*args, **kwargs)
        except DataDependentOutputException:
            if func is _aten._local_scalar_dense.default:
                return self._scalar(args[0])
            raise
        except DynamicOutputShapeException:
            if func is _aten.nonzero.default:
                self._guess("nonzero: all elements taken to be nonzero")
                return torch.empty(args[0].numel(), args[0].dim(), dtype=torch.int64)
            raise

    def _scalar(self, tensor: torch.Tensor) -> bool | int | float:
        dtype = str(tensor.dtype).removeprefix("torch.")
        answer: bool | int | float = False
        if tensor.dtype is not torch.bool:
            answer = 1.0 if tensor.dtype.is_floating_point else 0
        self._guess(f"a {dtype} read from a tensor taken to be {answer}")
        return answer

    def _chosen(self, indices: Iterable[Any]) -> list[Any]:
        """Replace masks by index tensors that choose every element."""
        self._guess("boolean index: all elements taken to be chosen")
        chosen: list[Any] = []
        for index in indices:
            if _is_fake_mask(index):
                chosen += [torch.empty(index.numel(), dtype=torch.int64) for _ in range(index.dim())]
            else:
                chosen.append(index)
        return chosen

    def _guess(self, text: str) -> None:
        self.guesses[text] = None


def _is_fake_mask(index: Any) -> bool:
    return isinstance(index, torch._subclasses.FakeTensor) and index.dtype in (torch.bool, torch.uint8)
