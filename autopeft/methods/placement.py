"""Placement: from roles and layers to the names of a model's modules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import takewhile

from torch import nn
from transformers.pytorch_utils import Conv1D

from autopeft.errors import InputError

# What model families call the matrices of a transformer layer. First match wins, so the longer
# names stand before the shorter; a fused matrix plays several roles.
_NAMES: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (rf"(^|\.){pattern}$", frozenset(roles.split("+")))
    for pattern, roles in (
        (r"(q_proj|query|q_lin|query_proj|q)", "query"),
        (r"(k_proj|key|k_lin|key_proj|k)", "key"),
        (r"(v_proj|value|v_lin|value_proj|v)", "value"),
        (r"(qkv_proj|query_key_value|c_attn|Wqkv|in_proj|qkv)", "query+key+value"),
        (
            r"(o_proj|out_proj|out_lin|attention\.output\.dense|attention\.dense|self_attention\.dense)",
            "output",
        ),
        (r"(self_attn\.dense|attn\.c_proj|attn\.proj|attn\.Wo|attn\.out_proj|o)", "output"),
        (r"gate_up_proj", "gate+up"),
        (r"(gate_proj|wi_0)", "gate"),
        (r"mlp\.Wi", "gate+up"),
        (r"(up_proj|intermediate[._]dense|fc1|c_fc|lin1|dense_h_to_4h|wi_1|wi)", "up"),
        (r"(down_proj|output[._]dense|fc2|mlp\.c_proj|lin2|dense_4h_to_h|mlp\.Wo|wo)", "down"),
    )
)
_GROUPS = {
    "attention": frozenset(("query", "key", "value", "output")),
    "mlp": frozenset(("gate", "up", "down")),
    "all-linear": frozenset(("query", "key", "value", "output", "gate", "up", "down")),
}
# What starts the block that a matrix of a role ends.
_FIRST = {"down": frozenset(("gate", "up")), "output": frozenset(("query",))}
ROLES = frozenset((*_GROUPS["all-linear"], *_GROUPS, "norms"))
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def resolve_targets(
    model: nn.Module, targets: str | tuple[str, ...], layers: str | tuple[int, ...]
) -> list[str]:
    """Name the modules that a candidate adapts, in model order.

    Args:
        model: the base model, not yet adapted.
        targets: roles joined by "+" ("query+value", "attention", "all-linear", "norms"), or module
            names, each matching the end of a full name.
        layers: see `Candidate.layers`.

    Raises:
        InputError: a role or name matches no module, or a layer does not exist.
    """
    wanted = tuple(targets.split("+")) if isinstance(targets, str) else targets
    chosen = choose_layers(layers, count_layers(model))
    by_role = set(wanted) <= ROLES
    names = _with_roles(model, wanted) if by_role else _with_names(model, wanted)
    kept = [name for name in names if layers == "all" or layer_of(name) in chosen]
    if not kept:
        raise InputError(
            f"targets {targets!r} match no module in layers {layers!r} of this {type(model).__name__}; "
            f"its linear modules end in: {', '.join(_endings(model))}. Roles: {', '.join(sorted(ROLES))}."
        )
    return kept


def shorten(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return the shortest endings that select exactly these modules, or the full names."""
    chosen = set(names)
    endings = sorted({name.rpartition(".")[2] for name in chosen})
    selected = {
        name for name, _ in model.named_modules() if any(name == e or name.endswith(f".{e}") for e in endings)
    }
    return endings if selected == chosen else sorted(chosen)


def count_layers(model: nn.Module) -> int:
    """Count the model's transformer layers."""
    return 1 + max((layer_of(name) for name, _ in model.named_modules()), default=-1)


def layer_of(name: str) -> int:
    """Return the index of the layer that a module belongs to; -1 outside the layers."""
    match = _LAYER.search(f"{name}.")
    return int(match.group(1)) if match else -1


def choose_layers(layers: str | tuple[int, ...], count: int) -> frozenset[int]:
    """Turn `Candidate.layers` into indices.

    Raises:
        InputError: it is no such choice, or names a layer that does not exist.
    """
    if isinstance(layers, tuple):
        indices = frozenset(layers)
    elif layers == "all":
        return frozenset(range(count))
    elif layers in ("first-half", "last-half", "last-quarter"):
        quarter = min(count, max(1, count // 4))
        cut = {"first-half": count // 2, "last-half": count // 2, "last-quarter": count - quarter}[layers]
        return frozenset(range(cut) if layers == "first-half" else range(cut, count))
    elif switches := re.fullmatch(r"switches:([01]+)", layers):
        turned = switches.group(1)
        indices = frozenset(i for i in range(count) if turned[i * len(turned) // count] == "1")
    else:
        match = re.fullmatch(r"(\d+)-(\d*)", layers)
        if match is None:
            raise InputError(
                "layers must be all, first-half, last-half, last-quarter, a range (4-20, 4-), a list or "
                f"switches:1011, but got {layers!r}."
            )
        indices = frozenset(range(int(match.group(1)), int(match.group(2) or count - 1) + 1))
    if not indices or min(indices) < 0 or max(indices) >= count:
        raise InputError(f"layers must lie in 0 to {count - 1}, but got {layers!r}.")
    return indices


def roles_of(name: str) -> frozenset[str]:
    """Return the roles that a linear module plays, by its name; empty where it has none."""
    for pattern, roles in _NAMES:
        if re.search(pattern, name):
            return roles
    return frozenset()


def block_entrance(model: nn.Module, name: str) -> str:
    """Name the module whose input is that of the block that a matrix ends; itself where it ends none.

    Feed-forward blocks start at their first gate or up matrix, attention at its query.

    Raises:
        ValueError: the matrix ends a block whose first matrix is not there.
    """
    firsts = frozenset().union(*(_FIRST.get(role, frozenset()) for role in roles_of(name)))
    if not firsts:
        return name
    path = name.split(".")
    nearest, found = 0, ""
    for other, _ in model.named_modules():
        pairs = zip(path, other.split("."), strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        if shared > nearest and roles_of(other) & firsts:
            nearest, found = shared, other
    if not found or layer_of(found) != layer_of(name):
        raise ValueError(f"the block that {name} ends has no matrix that starts it, which the adapter reads.")
    return found


def norm_names(model: nn.Module) -> list[str]:
    """Name the normalisation modules that have weights; a block that is called after its norm is none."""
    return [
        name
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        and not any(module.children())
        and any(True for _ in module.parameters())
    ]


def _with_roles(model: nn.Module, wanted: tuple[str, ...]) -> list[str]:
    roles = frozenset().union(*(_GROUPS.get(role, frozenset((role,))) for role in wanted))
    linear = [name for name in _linear(model) if layer_of(name) >= 0 and roles_of(name) & roles]
    return linear + (norm_names(model) if "norms" in roles else [])


def _with_names(model: nn.Module, wanted: tuple[str, ...]) -> list[str]:
    names = _linear(model)
    for ending in wanted:
        if not any(name == ending or name.endswith(f".{ending}") for name in names):
            raise InputError(
                f"target {ending!r} matches no linear module of this {type(model).__name__}; they end in: "
                f"{', '.join(_endings(model))}. Roles: {', '.join(sorted(ROLES))}."
            )
    return [n for n in names if any(n == ending or n.endswith(f".{ending}") for ending in wanted)]


def _linear(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]


def _endings(model: nn.Module) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in _linear(model)})
