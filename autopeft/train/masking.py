"""Masking: which tokens of a row a masked language model has to guess (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from autopeft.workload.tokens import IGNORED

_HIDDEN, _MASK, _OTHER = 0.15, 0.8, 0.1


def mask_tokens(
    ids: Sequence[int], *, mask: int, special: Collection[int], vocabulary: int, dice: random.Random
) -> tuple[list[int], list[int]]:
    """Hide 15 % of a row's tokens, at least one: 80 % by the mask, 10 % by any token, 10 % by themselves.

    Args:
        ids: the row.
        mask: id of the mask.
        special: ids that are never hidden.
        vocabulary: how many tokens there are to draw from.
        dice: decides.

    Returns:
        The row with its tokens hidden, and for each place the token to guess or `IGNORED`.
    """
    places = [place for place, token in enumerate(ids) if token not in special]
    hidden = [place for place in places if dice.random() < _HIDDEN] or (places and [dice.choice(places)])
    shown, wanted = list(ids), [IGNORED] * len(ids)
    for place in hidden:
        wanted[place] = ids[place]
        drawn = dice.random()
        if drawn < _MASK:
            shown[place] = mask
        elif drawn < _MASK + _OTHER:
            shown[place] = dice.randrange(vocabulary)
    return shown, wanted
