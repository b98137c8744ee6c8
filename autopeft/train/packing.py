"""Packing: several rows in one, which do not see each other, so that batches hold no padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autopeft.train.text_feed import TextRow
from autopeft.workload.tokens import IGNORED


def join_rows(rows: Sequence[TextRow]) -> dict[str, torch.Tensor]:
    """Join rows to one long row: input_ids, position_ids and labels, (1, tokens of all).

    Positions begin again with each row, by which transformers tells rows apart where there is no mask; the
    first token of a row is not to be predicted from the row before.
    """
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    for row in rows:
        target = row.target if isinstance(row.target, list) else []
        ids += row.ids
        positions += range(len(row.ids))
        labels += [IGNORED, *target[1:]]
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "labels": torch.tensor([labels]),
    }
