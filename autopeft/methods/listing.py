"""Which methods there are for what is asked. Torch-free."""

from __future__ import annotations

from typing import get_args

from autopeft.errors import UnknownNameError
from autopeft.methods.quantization.schemes import find_quantization
from autopeft.methods.registry import METHODS
from autopeft.methods.spec import EVERY_FAMILY, MethodSpec, Server


def choose_methods(
    *,
    family: str | None = None,
    works_on: str | None = None,
    quantization: str | None = None,
    served_by: str | None = None,
    mergeable: bool = False,
) -> tuple[MethodSpec, ...]:
    """Return the methods that pass every filter; None and False take all.

    Args:
        family: of methods.   works_on: a family of models.   quantization: of the base.
        served_by: who loads the adapter as it is saved.
        mergeable: those whose update folds into the base weights.

    Raises:
        UnknownNameError: there is no such family, quantisation or server.
    """
    families = dict.fromkeys(spec.family for spec in METHODS.values())
    if family is not None and family not in families:
        raise UnknownNameError("family of methods", family, families)
    if works_on is not None and works_on not in EVERY_FAMILY:
        raise UnknownNameError("family of models", works_on, EVERY_FAMILY)
    if served_by is not None and served_by not in get_args(Server):
        raise UnknownNameError("server", served_by, get_args(Server))
    packed = None if quantization is None else find_quantization(quantization).packed
    return tuple(
        spec
        for spec in METHODS.values()
        if family in (None, spec.family)
        and (works_on is None or works_on in spec.families)
        and (packed is None or packed in spec.quantised)
        and (served_by is None or served_by in spec.served)
        and (spec.mergeable or not mergeable)
    )
