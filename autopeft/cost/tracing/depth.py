"""Depth: which few layers of a model stand for all of them.

Layers that are alike repeat in units: one layer, or a period of several kinds (five local and one global
attention). Of many units in a row three are traced, and the middle one stands for the rest.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from transformers import PretrainedConfig

from autopeft.methods.backbone import whole_config
from autopeft.methods.heads import head_family
from autopeft.methods.placement import choose_layers
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.families import family_of

FEWEST = 3
"""Units that are traced of a run of like ones: the first, the last, and one that stands for the rest."""
_LONGEST_PERIOD = 8
_FIELDS = (
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
    "depth",
)
# Families whose stacks refer to each other's layers: what one makes the other frees.
_NOT_ALIKE = ("encoder-decoder", "speech")
# In the order in which such models hold their parts.
_PARTS = ("vision_config", "text_config")
# Knobs of PEFT methods that name layers themselves.
_LAYER_KNOBS = ("layers_to_transform", "layers_pattern", "layer_replication", "rank_pattern", "alpha_pattern")


class Run(NamedTuple):
    """Like units in a row: `traced` of `units` are traced, each of `period` layers from `start` on."""

    start: int
    period: int
    units: int
    traced: int

    @property
    def copies(self) -> int:
        """How often the second unit is repeated."""
        return self.units - self.traced


def find_runs(kinds: Sequence[Hashable], traced: int = FEWEST) -> list[Run]:
    """Split a sequence of layers' kinds into runs of like units; `start` counts traced layers."""
    runs: list[Run] = []
    at = start = 0
    while at < len(kinds):
        period, units = _longest_repeat(kinds, at)
        runs.append(Run(start, period, units, min(units, traced)))
        at += period * units
        start += period * runs[-1].traced
    return runs


def kept(runs: Sequence[Run]) -> list[int]:
    """Return the layers of the whole model that are traced."""
    layers: list[int] = []
    at = 0
    for run in runs:
        layers += range(at, at + run.period * (run.traced - 1))
        at += run.period * run.units
        layers += range(at - run.period, at)
    return layers


def shorten(
    base: BaseModel, candidate: Candidate, traced: int = FEWEST
) -> tuple[BaseModel, Candidate, tuple[tuple[Run, ...], ...]] | None:
    """Make a model of few layers that stands for `base`, and the candidate that goes with it.

    Returns:
        The short model, its candidate, and the runs of each stack of layers; None where the layers
        cannot be told apart well enough, or there is nothing to be won.
    """
    if base.family in _NOT_ALIKE:
        return None
    config = whole_config(base)
    stacks = [(part, field, depth) for part, field, depth in _depths(config)]
    by_layer = candidate.layers != "all" or any(knob in candidate.knobs for knob in _LAYER_KNOBS)
    if any(knob in candidate.knobs for knob in _LAYER_KNOBS) or not stacks:
        return None
    if by_layer and len(stacks) != 1:
        return None
    raw: dict[str, Any] = {**base.config}
    all_runs: list[tuple[Run, ...]] = []
    short = candidate
    for part, field, depth in stacks:
        adapted = choose_layers(candidate.layers, depth) if by_layer else frozenset(range(depth))
        prompts = candidate.knobs.get("adapter_layers")
        if isinstance(prompts, int):
            adapted = frozenset(range(depth - prompts, depth))
        own = getattr(config, part) if part else config
        lists = _lists(own, depth)
        kinds = [
            (i in adapted, _dense(own, i), *(str(values[i]) for values in lists.values()))
            for i in range(depth)
        ]
        runs = find_runs(kinds, traced)
        layers = kept(runs)
        all_runs.append(tuple(runs))
        target = raw
        if part:
            target = _part_of(raw, part)
        target[field] = len(layers)
        for name, values in lists.items():
            target[name] = [values[i] for i in layers]
        if isinstance(getattr(own, "first_k_dense_replace", None), int):
            target["first_k_dense_replace"] = sum(i < own.first_k_dense_replace for i in layers)
        if by_layer:
            chosen = tuple(place for place, i in enumerate(layers) if i in adapted)
            short = candidate.model_copy(update={"layers": chosen})
        if isinstance(prompts, int):
            fewer = sum(i in adapted for i in layers)
            short = short.model_copy(update={"knobs": {**short.knobs, "adapter_layers": fewer}})
    if not any(run.copies for runs in all_runs for run in runs):
        return None
    return base.model_copy(update={"config": raw}), short, tuple(all_runs)


def _depths(config: PretrainedConfig) -> list[tuple[str, str, int]]:
    """Name every field that holds a number of layers, in the order in which the stacks are built."""
    found = []
    parts = [part for part in _PARTS if isinstance(getattr(config, part, None), PretrainedConfig)]
    if head_family(family_of(config.to_dict(), "it"), config.model_type) == "vision":
        parts = parts[:1]  # of dual encoders, only the one that sees is trained
    for part in parts or [""]:
        own = getattr(config, part) if part else config
        names = own.to_dict()
        pairs = [(part, name, names[name]) for name in _FIELDS if isinstance(names.get(name), int)]
        if any(name == "encoder_layers" for _, name, _ in pairs):
            pairs = [each for each in pairs if each[1] in ("encoder_layers", "decoder_layers")]
        found += pairs
    return found


def _part_of(raw: dict[str, Any], part: str) -> dict[str, Any]:
    """Return a copy of a part to change; older configurations keep the fields of the text part outside."""
    if part == "text_config" and part not in raw:
        return raw
    raw[part] = {**(raw.get(part) or {})}
    changed: dict[str, Any] = raw[part]
    return changed


def _lists(config: PretrainedConfig, depth: int) -> dict[str, list[Any]]:
    """Return the configuration's lists with an entry for each layer."""
    return {
        name: value
        for name, value in config.to_dict().items()
        if isinstance(value, list) and len(value) == depth and name not in ("architectures", "moe_layers")
    }


def _dense(config: PretrainedConfig, layer: int) -> bool:
    first = getattr(config, "first_k_dense_replace", None)
    return isinstance(first, int) and layer < first


def _longest_repeat(kinds: Sequence[Hashable], at: int) -> tuple[int, int]:
    """Return the period and number of units of the longest repetition that begins at a layer."""
    best = (1, 1)
    for period in range(1, _LONGEST_PERIOD + 1):
        unit = list(kinds[at : at + period])
        units = 1
        while list(kinds[at + period * units : at + period * (units + 1)]) == unit:
            units += 1
        if units > 1 and period * units > best[0] * best[1]:
            best = (period, units)
    return best
