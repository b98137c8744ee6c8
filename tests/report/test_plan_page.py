"""A plan as a page and as Markdown, from the JSON that it was kept as."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic_core import to_json

from autopeft.errors import ConfigError, InputError
from autopeft.journey.kept_answers import read_answer, write_answer
from autopeft.plan.plan import Plan, Rejected
from autopeft.report.facts import StudyFacts
from autopeft.report.plan_page import decision, refusals, render, row_of
from autopeft.report.text import plan_to_markdown


def test_the_page_has_every_configuration_and_loads_nothing(facts: StudyFacts) -> None:
    page = render(facts.plan)
    assert len(re.findall(r"<tr><td class=\"num\">\d+</td><th>", page)) == len(facts.plan.fits)
    assert "nf4 needs a CUDA device" in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_decision_names_the_first_or_the_nearest_miss(facts: StudyFacts) -> None:
    plan = facts.plan
    first = row_of(plan.fits[0])
    total = len(plan.fits) + len(plan.rejected)
    assert decision(plan).startswith(f"{len(plan.fits)} of {total} configurations fit; {first.configuration}")
    nothing = decision(plan.model_copy(update={"fits": ()}))
    assert nothing.startswith("None of 3 configurations fits; the nearest miss is full: predicted 4.21 GiB")


def test_what_does_not_fit_is_grouped_by_its_reason(facts: StudyFacts) -> None:
    assert [(one.number, one.reason) for one in refusals(facts.plan)] == [
        (1, "predicted 4.21 GiB do not fit the 3.73 GiB of the budget; take a smaller batch"),
        (2, "nf4 needs a CUDA device"),
    ]


def test_names_in_page_and_markdown_are_no_markup(facts: StudyFacts) -> None:
    hostile = Rejected(candidate=facts.plan.rejected[0].candidate, reason="<b>a | b")
    plan = facts.plan.model_copy(update={"model": "<script>", "rejected": (hostile,)})
    for text in (render(plan), plan_to_markdown(plan)):
        assert "<script>" not in text
        assert "<b>" not in text
    assert "a \\| b |" in plan_to_markdown(plan)


def test_a_kept_plan_comes_back_and_is_written_beside(facts: StudyFacts, tmp_path: Path) -> None:
    kept = tmp_path / "plan.json"
    kept.write_bytes(to_json(facts.plan, indent=2, inf_nan_mode="null"))  # as `plan --json` prints it
    answer = read_answer(kept)
    assert answer == facts.plan
    assert isinstance(answer, Plan)
    assert write_answer(answer, tmp_path / "plan.html").read_text(encoding="utf-8") == render(facts.plan)


@pytest.mark.parametrize(
    ("held", "error", "words"),
    [
        ("[]", InputError, "must hold the plan of one model or a capacity plan"),
        ('{"fits": []}', ConfigError, "model: Field required"),
        ("{", ConfigError, "holds no JSON"),
    ],
)
def test_what_is_no_answer_is_refused(held: str, error: type[Exception], words: str, tmp_path: Path) -> None:
    place = tmp_path / "other.json"
    place.write_text(held)
    with pytest.raises(error, match=words):
        read_answer(place)
