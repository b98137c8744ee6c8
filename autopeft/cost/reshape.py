"""Reshape: tapes of one expansion at many shapes; what no shape changes is worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autopeft.cost.expand import Expansion
from autopeft.cost.tape import Tape


class Reshaper:
    """Gives the tapes that `Expansion.tape` gives, in a fraction of its time after the first.

    Blocks, events and the order of operators are the same at every shape; only their sizes and work differ.
    """

    def __init__(self, expansion: Expansion) -> None:
        """Remember the expansion; nothing is worked out yet."""
        self.expansion = expansion
        self._moulds: dict[int, Tape] = {}

    def tape(self, rows: int, lengths: Sequence[int], rank: int) -> Tape:
        """Return the tape of a run; see `Expansion.tape`."""
        mould = self._moulds.get(len(lengths))
        if mould is None:
            mould = self._moulds[len(lengths)] = self.expansion.tape(rows, lengths, rank)
            return mould
        expansion, pattern = self.expansion, self.expansion.pattern
        values = {length: expansion.values(rows, length, rank) for length in set(lengths)}
        whole = {length: np.rint(found).astype(np.int64) for length, found in values.items()}
        sizes = [whole[lengths[0]][pattern.built.block_size[expansion.built.origin]]]
        for step, length in enumerate(lengths):
            score, part = (pattern.later, expansion.later) if step else (pattern.first, expansion.first)
            sizes.append(whole[length][score.block_size[part.origin]])
        work = values[lengths[1]]
        source, _ = expansion._operator_source
        trainable, total, exported = expansion._parameters(work)
        return replace(
            mould,
            rows=rows,
            lengths=tuple(lengths),
            trainable_params=trainable,
            total_params=total,
            adapter_bytes=exported,
            block_bytes=np.concatenate(sizes),
            operator_flops=np.maximum(work[pattern.later.operator_flops][source], 0.0),
            operator_bytes=np.maximum(work[pattern.later.operator_bytes][source], 0.0),
        )

    def at(self, tape: Tape, rows: int, length: int, rank: int) -> Tape:
        """Return a tape with the operators of another length; its blocks stay as they are.

        Enough for the time of a step, and a small part of the work of `tape`.
        """
        expansion, later = self.expansion, self.expansion.pattern.later
        work = expansion.values(rows, length, rank)
        source, _ = expansion._operator_source
        return replace(
            tape,
            lengths=(length,) * len(tape.lengths),
            operator_flops=np.maximum(work[later.operator_flops][source], 0.0),
            operator_bytes=np.maximum(work[later.operator_bytes][source], 0.0),
        )
