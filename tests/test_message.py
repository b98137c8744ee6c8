"""Messages as JSON: what every reader takes, and what comes back from it."""

from __future__ import annotations

import json
import math

import pytest

from autopeft.cli import screen
from autopeft.errors import InputError
from autopeft.message import json_of
from autopeft.plan.question import Question
from autopeft.report.facts import TestScore
from autopeft.request import Request
from autopeft.train.result import Report

NAN = math.nan
UNBOUNDED = TestScore(
    contender="winner", label="NaN", test_score=0.7, low=-math.inf, high=math.inf, extra={"loss": NAN}
)
DIVERGED = Report(samples=1, step=1, loss=NAN, score=NAN, seconds=1, step_seconds=1, peak_bytes=1, extra={})


def strictly_read(content: str | bytes) -> object:
    """Read JSON as those readers do that refuse what is none."""

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(content, parse_constant=refuse)


@pytest.mark.parametrize("answer", [UNBOUNDED, [DIVERGED], {"a": NAN}, UNBOUNDED.model_dump_json().encode()])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_answer_is_json_that_every_reader_takes(answer, indent) -> None:
    assert strictly_read(json_of(answer, indent=indent))


def test_what_is_no_number_comes_back_as_what_it_was() -> None:
    assert json.loads(json_of(UNBOUNDED))["label"] == "NaN"
    score = TestScore.model_validate_json(json_of(UNBOUNDED))
    assert (score.low, score.high, math.isnan(score.extra["loss"])) == (-math.inf, math.inf, True)
    report = Report.model_validate_json(json_of(DIVERGED))
    assert (report.is_finite, report.loss) == (False, None)


def test_a_file_keeps_what_is_no_number(tmp_path) -> None:
    DIVERGED.keep(tmp_path / "report.json")
    assert math.isnan(Report.read(tmp_path / "report.json").loss or 0.0)


def test_finite_answers_are_written_as_they_are() -> None:
    given = {"a": [1, 0.1, 1e-30, None, "é"], "b": 10**20}
    assert json_of(given) == b'{"a":[1,0.1,1e-30,null,"\xc3\xa9"],"b":100000000000000000000}'
    assert json_of(given | {"c": NAN}) == json_of(given | {"c": None})


def test_the_command_line_prints_json_that_every_reader_takes(capsys) -> None:
    screen.show((UNBOUNDED, DIVERGED), str, as_json=True)
    assert strictly_read(capsys.readouterr().out)[0]["low"] is None


@pytest.mark.parametrize("message", [Request, Question])
@pytest.mark.parametrize("name", ["cls", "self"])
def test_a_field_that_no_message_has_is_a_mistake_whatever_it_is_called(message, name) -> None:
    with pytest.raises(InputError, match=name):
        message.build(**{name: 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 10**400},
        {"train_rows": 2**70},
        {"epochs": 1e308},
        {"epochs": 10**400},
        {"examples": 10**30},
        {"seq_len": 10**30},
        {"batch_size": 10**30},
        {"budget": {"trials": 10**400}},
    ],
)
def test_what_is_beyond_all_trainings_is_a_mistake(fields) -> None:
    with pytest.raises(InputError, match=f"{next(iter(fields))}.*(less than|valid number)"):
        Request.build(**fields)
