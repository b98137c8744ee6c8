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
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode

from autopeft.cost.tape import Category, Phase, Span
from autopeft.cost.tracing.operators import bytes_of, dtype_of, flops_of, kind_of, runs, tensors_in

_aten = torch.ops.aten
_NO_NUMBER = 2**62  # nodes that accumulate gradients bear a number beyond all others
# Results that nothing was written to yet.
_UNFILLED = ("aten::empty_like", "aten::new_empty", "aten::new_empty_strided")
_CHECKPOINT = "CheckpointFunctionBackward"
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records events, operators and spans while it is active.

    A block's category starts as TEMPORARY (OTHER while the model is built) and is corrected by
    `assign` as soon as it is known what the block is for. Every block, event and operator is told which
    transformer layer it belongs to (-1: none), so that `cost/expand.py` can repeat layers.

    Args:
        reads_values: fake tensors made from lists keep their values (see `shims.traced_as`); results are
            then known only where all that they are made of is.

    Attributes:
        layer: the layer whose forward runs now; backward asks `layer_of_node` instead.
    """

    def __init__(self, *, reads_values: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads_values = reads_values
        self.sizes: list[int] = []
        self.elements: list[int] = []
        self.categories: list[Category] = []
        self.events: list[int] = []
        self.operators: list[tuple[str, float, float, str, int]] = []
        self.spans: list[Span] = [Span(-1, 0, Phase.BUILD, 0, 0)]
        self.guesses: dict[str, None] = {}
        self.logits_sizes: set[tuple[int, int]] = set()  # (step, elements)
        self.layer = -1
        self._updated = -1  # layer of what the optimizer updated last
        self._stepping = 0  # first block of the optimizer's step
        self.layer_of_node: Callable[[int, bool], int] | None = None
        self.block_layers: list[int] = []
        self.event_layers: list[int] = []
        self._working: list[int] = []  # the layer at work at each event
        self.operator_layers: list[int] = []
        self._blocks: dict[int, int] = {}  # address of a storage -> block
        self._guards: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def enter(self, step: int, micro_batch: int, phase: Phase) -> None:
        """Begin a phase; what forward leaves alive when backward begins was saved for it."""
        if phase is Phase.BACKWARD:
            for block in self._blocks.values():
                if self.categories[block] is Category.TEMPORARY:
                    self.categories[block] = Category.SAVED
        self.layer = -1
        if phase is Phase.OPTIMIZER:
            self._updated, self._stepping = -1, len(self.sizes)
        now = Span(step, micro_batch, phase, len(self.events), len(self.operators))
        if self.spans[-1][:3] != now[:3]:
            self.spans.append(now)

    def place(self, tensor: torch.Tensor, layer: int) -> None:
        """Say which layer a tensor belongs to."""
        block = self._note(tensor)
        if block is not None:
            self.block_layers[block] = layer

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
        """Take a step's activations of as many elements as its logits for their copies."""
        ends = [*(span.event for span in self.spans[1:]), len(self.events)]
        for span, end in zip(self.spans, ends, strict=True):
            for block in self.events[span.event : end]:
                activation = block >= 0 and self.categories[block] in (Category.SAVED, Category.TEMPORARY)
                if activation and (span.step, self.elements[block]) in self.logits_sizes:
                    self.categories[block] = Category.LOGITS

    @contextmanager
    def without_operators(self) -> Iterator[None]:
        """Write down no operators: what happens here is done ahead of the step."""
        count = len(self.operators)
        yield
        del self.operators[count:], self.operator_layers[count:]

    def arrays(self) -> dict[str, Any]:
        """Return what was recorded as the fields of a `Take`."""
        order = self._order()
        return {
            "spans": tuple(self.spans),
            "guesses": tuple(self.guesses),
            "sizes": np.array(self.sizes, dtype=np.int64),
            "categories": np.array(self.categories, dtype=np.int8),
            "block_layer": np.array(self.block_layers, dtype=np.int32),
            "events": np.array(self.events, dtype=np.int32)[order],
            "event_layer": np.array(self.event_layers, dtype=np.int32)[order],
            "operators": self.operators,
            "operator_layer": np.array(self.operator_layers, dtype=np.int32),
        }

    def _order(self) -> NDArray[np.int64]:
        """Put deaths at one moment into the order of birth.

        Blocks that are freed one after the other, with none born in between, may as well be freed in any
        order, and are: autocast forgets its casts in the order of their addresses.
        """
        events = np.array(self.events, dtype=np.int64)
        working = np.array(self._working, dtype=np.int64)
        apart = np.ones(len(events), dtype=bool)
        apart[1:] = (events[1:] >= 0) | (events[:-1] >= 0) | (working[1:] != working[:-1])
        starts = np.array([span.event for span in self.spans], dtype=np.int64)
        apart[starts[starts < len(events)]] = True
        return np.lexsort((np.where(events < 0, np.invert(events), 0), np.cumsum(apart)))

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
        phase = self.spans[-1].phase
        if phase is Phase.BACKWARD:
            self._follow_node()
        out = self._run(func, args, named)
        if self._reads_values and not _decided(func, args, named):
            _make_unknown(out)
        layer = self.layer
        if phase is Phase.OPTIMIZER:
            layer = self._note_updates(args, out)
        else:
            for tensor in tensors_in(out):
                self._note(tensor)
        if self.spans[-1].step >= 0 and runs(func):
            cost = flops_of(func, args, named, out), bytes_of(func, args, named, out)
            self.operators.append((func._schema.name, *cost, dtype_of(args, out), kind_of(func)))
            self.operator_layers.append(layer)
        return out

    def _follow_node(self) -> None:
        """Go to the layer of the autograd node that runs; a node without a number stays where it is.

        Reentrant checkpointing runs a layer again within its node, and makes new nodes that are its layer's.
        """
        node = torch._C._current_autograd_node()
        number = _NO_NUMBER if node is None else node._sequence_nr()  # type: ignore[redundant-expr]
        if self.layer_of_node is not None and number < _NO_NUMBER:
            self.layer = self.layer_of_node(number, node.name() == _CHECKPOINT)

    def _note_updates(self, args: tuple[Any, ...], out: Any) -> int:
        """Note the results of an optimizer's operator: each belongs where what it updates belongs.

        An operator on lists makes its i-th result of the i-th tensor of its first list; what is made of
        nothing belongs where the optimizer was last.
        """
        first = args[0] if args and isinstance(args[0], list | tuple) else None
        if first is not None and isinstance(out, list | tuple) and len(out) == len(first):
            for source, tensor in zip(first, out, strict=True):
                self._note(tensor, self._home(source))
            return -1
        homes = [home for home in map(self._home, tensors_in(args)) if home >= 0]
        given = any(each.untyped_storage()._cdata in self._blocks for each in tensors_in(args))
        alone = homes[0] if homes and first is None else (-1 if given else self._updated)
        self._updated = alone
        for tensor in tensors_in(out):
            self._note(tensor, alone)
        return alone

    def _home(self, tensor: Any) -> int:
        if not isinstance(tensor, torch.Tensor):
            return -1
        block = self._blocks.get(tensor.untyped_storage()._cdata)
        return -1 if block is None else self.block_layers[block]

    def _note(self, tensor: torch.Tensor, layer: int | None = None) -> int | None:
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
        self.block_layers.append(self.layer if layer is None else layer)
        self.events.append(block)
        self.event_layers.append(self.block_layers[block])
        self._working.append(self.layer)
        self._blocks[address] = block
        self._guards[address] = weakref.ref(storage, self._death(address, block))
        return block

    def _death(self, address: int, block: int) -> Callable[[object], None]:
        def record(_: object) -> None:
            layer, phase = self.layer, self.spans[-1].phase
            if phase is Phase.BACKWARD and torch._C._current_autograd_node() is None:
                layer = -1  # backward is over, and with it goes the graph of all layers
            if layer < 0 and phase is Phase.OPTIMIZER and block >= self._stepping:
                layer = self._updated  # a working copy goes when the next parameter's takes its name
            self.events.append(~block)
            self._working.append(layer)
            self.event_layers.append(layer if layer >= 0 else self.block_layers[block])
            del self._blocks[address], self._guards[address]

        return record

    def _run(self, func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator; where its result depends on values nobody has, answer with a guess."""
        by_mask = func in _INDEXING and any(_is_fake_mask(index) for index in args[1])
        if by_mask and not (self._reads_values and _decided(func, args, kwargs)):
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
        """Replace masks by index tensors that choose what they do, or every element where that is unknown."""
        chosen: list[Any] = []
        for index in indices:
            if _is_fake_mask(index) and self._reads_values and _known(index):
                count = sum(index.flatten().tolist())
                chosen += [torch.empty(count, dtype=torch.int64) for _ in range(index.dim())]
            elif _is_fake_mask(index):
                self._guess("boolean index: all elements taken to be chosen")
                chosen += [torch.empty(index.numel(), dtype=torch.int64) for _ in range(index.dim())]
            else:
                chosen.append(index)
        return chosen

    def _guess(self, text: str) -> None:
        self.guesses[text] = None


def _decided(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Say whether an operator's result has values that are known."""
    return func._schema.name not in _UNFILLED and all(map(_known, [*tensors_in(args), *tensors_in(kwargs)]))


def _known(tensor: torch.Tensor) -> bool:
    return not isinstance(tensor, torch._subclasses.FakeTensor) or tensor.constant is not None


def _make_unknown(out: Any) -> None:
    """Take back the values that torch has given to results which cannot have them."""
    for tensor in tensors_in(out):
        if isinstance(tensor, torch._subclasses.FakeTensor):
            tensor.constant = None


def _is_fake_mask(index: Any) -> bool:
    return isinstance(index, torch._subclasses.FakeTensor) and index.dtype in (torch.bool, torch.uint8)
