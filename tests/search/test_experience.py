from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autopeft.search.encoding import Encoding
from autopeft.search.experience import FILE, Experience, recorded_studies
from autopeft.search.past import PastStudy, PastTraining
from autopeft.space.candidate import Candidate
from autopeft.space.domain import assemble
from autopeft.space.search_space import SearchSpace, assignments


def space() -> SearchSpace:
    return SearchSpace.model_validate(
        {
            "name": "small",
            "domains": [
                {"field": "method", "allowed": {"choices": ["lora", "ia3"]}},
                {"field": "rank", "when": {"method": ["lora"]}, "allowed": {"choices": [2, 8, 32]}},
                {
                    "field": "training.learning_rate",
                    "allowed": {"choices": [1e-4, 1e-3, 1e-2], "default": 1e-3},
                },
            ],
        }
    )


def every() -> list[Candidate]:
    return [assemble(values) for values in assignments(space())]


def earlier(best: str, *, model: str = "m", noise: int = 0) -> PastStudy:
    """Return a study in which a method, and in it a high rate, does best."""
    drawn = np.random.default_rng(noise)
    return PastStudy(
        name=f"{best}-{noise}",
        model=model,
        trainings=tuple(
            PastTraining(candidate=each, curve=((1.0, _worth(each, best) + 0.01 * drawn.normal()),))
            for each in every()
        ),
    )


def _worth(candidate: Candidate, best: str) -> float:
    return 0.2 * (candidate.method == best) + 0.1 * float(np.log10(candidate.training.learning_rate))


def believed(studies: list[PastStudy]) -> dict[str, float]:
    known = Experience(studies, space(), "m")
    values = known.believed(Encoding(space()).features(every())).mean
    return {each.key: float(value) for each, value in zip(every(), values, strict=True)}


def test_without_earlier_studies_the_usual_rates_are_believed_to_be_best_and_methods_equal() -> None:
    found = believed([])
    assert not Experience((), space(), "m")
    for each in every():
        usual = each.training.learning_rate == 1e-3
        assert found[each.key] == pytest.approx(0.0 if usual else -0.5)


@pytest.mark.parametrize("best", ["lora", "ia3"])
def test_what_did_best_in_earlier_studies_is_expected_to_do_best_again(best: str) -> None:
    found, nothing = believed([earlier(best), earlier(best, noise=1)]), believed([])
    top = max(every(), key=lambda each: found[each.key])
    assert top.method == best
    assert 0 < found[top.key] < 1.5  # less than where it stood there
    gains = {
        each.training.learning_rate: found[each.key] - nothing[each.key]
        for each in every()
        if each.method == best
    }
    assert gains[1e-2] > gains[1e-4]


def test_a_study_of_another_model_says_half_as_much() -> None:
    same, other, none = believed([earlier("ia3")]), believed([earlier("ia3", model="n")]), believed([])
    for key, nothing in none.items():
        assert other[key] - nothing == pytest.approx((same[key] - nothing) / 2)


def test_studies_that_disagree_leave_methods_nearly_equal() -> None:
    def lead(found: dict[str, float]) -> float:
        at = {
            each.method: found[each.key]
            for each in every()
            if each.training.learning_rate == 1e-3 and each.rank in (None, 8)
        }
        return at["lora"] - at["ia3"]

    agreeing, torn = believed([earlier("lora")]), believed([earlier("lora"), earlier("ia3")])
    assert abs(lead(torn)) < 0.3 * lead(agreeing)


def test_trainings_of_methods_that_the_space_lacks_and_tiny_studies_do_not_count() -> None:
    foreign = Candidate(method="vera", rank=3)
    trainings = (PastTraining(candidate=foreign, curve=((1.0, 0.9),)), *earlier("lora").trainings[:3])
    known = Experience([PastStudy(name="a", model="m", trainings=trainings)], space(), "m")
    assert (known.trainings, len(known.studies)) == (3, 1)
    few = Experience([PastStudy(name="a", model="m", trainings=trainings[:3])], space(), "m")
    assert (few.trainings, few.studies, bool(few)) == (0, (), False)


def test_half_finished_trainings_count_too() -> None:
    trainings = [
        PastTraining(candidate=each, curve=((0.5, 0.1 * place), (1.0, 0.2 * place)))
        for place, each in enumerate(every()[:5])
    ]
    trainings += [PastTraining(candidate=each, curve=((0.5, -1.0),)) for each in every()[5:]]
    found = believed([PastStudy(name="a", model="m", trainings=tuple(trainings))])
    assert found[every()[4].key] > found[every()[0].key] > found[every()[-1].key]


def test_what_comes_along_is_of_encoders_that_classify_and_says_where_it_was_measured() -> None:
    studies = recorded_studies("encoder", "classification")
    assert len(studies) == 4
    assert sum(len(study.trainings) for study in studies) == 804
    assert recorded_studies("decoder", "classification") == ()
    assert recorded_studies("encoder", "regression") == ()
    assert "experiments/012-benchmark" in json.loads(FILE.read_text(encoding="utf-8"))["source"]


def test_a_field_that_never_varied_says_nothing_of_its_other_values() -> None:
    wide = SearchSpace.model_validate(
        {
            "name": "wide",
            "domains": [
                *(domain.model_dump() for domain in space().domains),
                {"field": "layers", "allowed": {"choices": ["all", "last-half"]}},
            ],
        }
    )
    known = Experience([earlier("ia3")], wide, "m")
    halved = [each.model_copy(update={"layers": "last-half"}) for each in every()]
    encoding = Encoding(wide)
    here, there = (known.believed(encoding.features(some)).mean for some in (every(), halved))
    assert here == pytest.approx(there)
    assert here.max() > 0.2


def test_values_that_the_space_does_not_hold_are_no_trouble() -> None:
    wide = SearchSpace.model_validate(
        {
            "name": "wide",
            "domains": [
                *(domain.model_dump() for domain in space().domains),
                {
                    "field": "training.weight_decay",
                    "allowed": {"low": 1e-4, "high": 0.1, "log": True, "default": 1e-2},
                },
            ],
        }
    )
    undecayed = [
        each.model_copy(update={"training": each.training.model_copy(update={"weight_decay": 0.0})})
        for each in every()
    ]
    trainings = tuple(PastTraining(candidate=each, curve=((1.0, 0.5),)) for each in undecayed)
    known = Experience([PastStudy(name="a", model="m", trainings=trainings)], wide, "m")
    assert np.isfinite(known.believed(Encoding(wide).features(every())).mean).all()


def test_three_equal_trainings_say_nothing_of_a_rate_far_off() -> None:
    usual = [each for each in every() if each.training.learning_rate == 1e-3][:3]
    trainings = tuple(PastTraining(candidate=each, curve=((1.0, 0.5),)) for each in usual)
    found = believed([PastStudy(name="a", model="m", trainings=trainings)])
    nothing = believed([])
    far = [each.key for each in every() if each.training.learning_rate != 1e-3]
    assert all(found[key] == pytest.approx(nothing[key], abs=0.15) for key in far)


def test_what_comes_along_is_what_was_recorded() -> None:
    """The scores are those of the benchmark's recordings, whatever a candidate's defaults become."""
    content = json.loads(FILE.read_text(encoding="utf-8"))
    place = Path(__file__).parents[2] / "experiments" / "012-benchmark" / "curves.jsonl"
    lines = (json.loads(line) for line in place.read_text(encoding="utf-8").splitlines())
    recorded = {(line["dataset"], line["key"]): line for line in lines if line["seed"] == 0}
    keys = [Candidate.model_validate(each).key for each in content["candidates"]]
    for name, scores in content["scores"].items():
        assert list(scores) == [recorded[name, key]["curve"][-1]["score"] for key in keys]
