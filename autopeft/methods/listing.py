"""Which methods there are for what is asked. Torch-free."""

from __future__ import annotations

from autopeft.errors import UnknownNameError
from autopeft.methods.quantization.schemes import find_quantization
from autopeft.methods.registry import METHODS
from autopeft.methods.spec import EVERY_FAMILY, MethodSpec


def choose_methods(
    *, family: str | None = None, works_on: str | None = None, quantization: str | None = None
) -> tuple[MethodSpec, ...]:
    """Return the methods of a family, for a family of models and for a packed base; None takes all.

    Raises:
        UnknownNameError: there is no such family or quantisation.
    """
    families = dict.fromkeys(spec.family for spec in METHODS.values())
    if family is not None and family not in families:
        raise UnknownNameError("family of methods", family, families)
    if works_on is not None and works_on not in EVERY_FAMILY:
        raise UnknownNameError("family of models", works_on, EVERY_FAMILY)
    packed = None if quantization is None else find_quantization(quantization).packed
    return tuple(
        spec
        for spec in METHODS.values()
        if family in (None, spec.family)
        and (works_on is None or works_on in spec.families)
        and (packed is None or packed in spec.quantised)
    )
