"""Every shipped space holds candidates that their methods understand and that adapt a model."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autopeft.errors import MissingExtraError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.heads import default_task
from autopeft.methods.registry import METHODS, complete, learns
from autopeft.space.candidate import Candidate, Scalar
from autopeft.space.domain import METHOD, Range, Switches
from autopeft.space.reader import list_spaces, load_space
from autopeft.space.search_space import (
    SearchSpace,
    active,
    assignment_of,
    candidate_from,
    footprints,
    size,
    warm_start,
)
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.tasks import TASKS, Task

SPACES = [space.name for space in list_spaces()]
WIDTHS = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
TEXT = {"vocab_size": 250, "max_position_embeddings": 512}
BASES: dict[Family, dict[str, object]] = {
    "decoder": {"model_type": "llama", **WIDTHS, **TEXT, "attention_bias": True},
    "encoder": {"model_type": "bert", **WIDTHS, **TEXT},
    "vision": {"model_type": "vit", **WIDTHS, "image_size": 32, "patch_size": 8},
}
PAIRS = [(space.name, family) for space in list_spaces() for family in space.families]


def drawn(space: SearchSpace, dice: random.Random, given: Mapping[str, Scalar]) -> Candidate:
    """Draw one candidate of a space: domain by domain, each as far as its condition holds."""
    values = dict(given)
    while left := [domain for domain in active(space, values) if domain.field not in values]:
        allowed = left[0].allowed
        if isinstance(allowed, Switches):
            on = [dice.random() < 0.5 for _ in range(allowed.switches)]
            values[left[0].field] = allowed.turned(on if any(on) else [True, *on[1:]])
        elif isinstance(allowed, Range) and allowed.continuous:
            values[left[0].field] = allowed.low * (allowed.high / allowed.low) ** dice.random()
        else:
            values[left[0].field] = dice.choice(allowed.values)
    return candidate_from(space, values)


def of_each_method(space: SearchSpace, dice: random.Random) -> list[Candidate]:
    searched = METHOD not in space.fixed
    return [drawn(space, dice, {METHOD: name} if searched else {}) for name in space.methods]


@pytest.mark.parametrize("name", SPACES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=15)
def test_every_candidate_of_a_shipped_space_is_one_its_method_understands(name: str, seed: int) -> None:
    space = load_space(name)
    for candidate in of_each_method(space, random.Random(seed)):
        assert assignment_of(space, candidate) is not None
        full, spec = complete(candidate), METHODS[candidate.method]
        assert set(spec.families) >= set(space.families)
        assert spec.placeable or (full.targets is None and full.layers in ("all", candidate.layers))
        assert candidate.rank is None or spec.has_rank


@pytest.mark.parametrize("name", SPACES)
def test_a_shipped_space_says_what_it_is_for_and_starts_with_each_of_its_methods(name: str) -> None:
    space = load_space(name)
    assert space.description
    assert [candidate.method for candidate in warm_start(space)] == list(space.methods)
    assert len(footprints(space, 500)) <= size(space)


def task_of(method: str, family: Family) -> Task:
    usual = default_task(family)
    return next(task for task in (usual, *TASKS) if learns(METHODS[method], family, task))


def adapts(candidate: Candidate, family: Family) -> None:
    torch.manual_seed(0)
    base = BaseModel(name=f"tiny-{family}", family=family, source="made for tests", config=BASES[family])
    task = task_of(candidate.method, family)
    quantization = candidate.quantization
    try:
        model = build_backbone(base, task, 2, candidate.training, weights=False, quantization=quantization)
    except MissingExtraError:
        pytest.skip(f"no library for {quantization} here")
    own = trainable(adapt(model, complete(candidate), task))
    assert sum(parameter.numel() for parameter in own) > 0


@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if pair[0] != "full"])
def test_a_candidate_of_each_method_of_a_shipped_space_adapts_a_model(name: str, family: Family) -> None:
    for candidate in of_each_method(load_space(name), random.Random(1)):
        adapts(candidate, family)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["decoder", "encoder"])
@pytest.mark.parametrize("seed", [2, 3])
def test_candidates_of_every_method_of_the_full_space_adapt_a_model(family: Family, seed: int) -> None:
    for candidate in of_each_method(load_space("full"), random.Random(seed)):
        adapts(candidate, family)


def test_the_full_space_has_every_family_of_methods() -> None:
    methods = load_space("full").methods
    families = {spec.family for spec in METHODS.values()}
    assert {METHODS[name].family for name in methods} == families
    only_decoders = {name for name, spec in METHODS.items() if "encoder" not in spec.families}
    by_task_number = {name for name, spec in METHODS.items() if spec.named_task}
    elsewhere = {"bottleneck", "autopeft-2024", "cartridge"}  # houlsby's, a space of its own, prefix tuning's
    assert set(METHODS) - set(methods) == only_decoders | by_task_number | elsewhere
