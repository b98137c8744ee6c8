"""A prior is made of published numbers only, and says which."""

from __future__ import annotations

import pytest

from autopeft.methods.quantization.schemes import find_quantization
from autopeft.methods.registry import METHODS
from autopeft.plan.prior import prior_of, published
from autopeft.space.candidate import Candidate


def lora(**fields: object) -> Candidate:
    return Candidate(**{"method": "lora", "rank": 32, "targets": "query+value"} | fields)


def test_a_published_configuration_has_its_published_score() -> None:
    prior = prior_of(lora(), "decoder")
    assert prior is not None
    assert prior.score == 0.4784
    assert "method_comparison/MetaMathQA" in prior.sources[0]


def test_the_nearest_published_rank_counts_with_a_wider_spread() -> None:
    near, exact = prior_of(lora(rank=16), "decoder"), prior_of(lora(), "decoder")
    assert near is not None
    assert exact is not None
    assert near.score == exact.score
    assert near.spread > exact.spread
    assert "r=32" in near.basis


def test_placement_and_quantisation_add_what_they_changed_elsewhere_and_their_source() -> None:
    prior, plain = (
        prior_of(lora(targets="all-linear", quantization="nf4-dq"), "decoder"),
        prior_of(lora(), "decoder"),
    )
    assert prior is not None
    assert plain is not None
    steps = 0.002 - 0.0046 - 0.0005
    assert prior.score == pytest.approx(plain.score + steps, abs=1e-4)
    assert any("2305.14314" in source for source in prior.sources)
    assert prior.spread > plain.spread


@pytest.mark.parametrize(
    "candidate",
    [
        lora(rank=128),
        lora(layers="last-half"),
        lora(targets="output+down"),
        lora(quantization="gptq-int4"),
        Candidate(method="ln_tuning"),
        Candidate(method="ia3", targets="all-linear"),
    ],
    ids=lambda candidate: candidate.label,
)
def test_what_nobody_published_is_unknown(candidate: Candidate) -> None:
    assert prior_of(candidate, "decoder") is None


def test_other_kinds_of_models_have_their_own_comparison() -> None:
    encoder = prior_of(lora(rank=8), "encoder")
    assert encoder is not None
    assert encoder.score == 0.872
    assert prior_of(lora(), "vision") is None


def test_every_published_number_names_its_source_and_a_known_method() -> None:
    known = published()
    for benchmark in known.benchmarks:
        assert benchmark.source
        assert {score.method for score in benchmark.scores} <= set(METHODS)
    assert all(step.source for step in known.placement.steps)
    for rule in known.quantization:
        assert rule.source
        for scheme in rule.schemes:
            find_quantization(scheme)
