from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.hardware.catalog import load_profile
from autopeft.journey.inputs import Inputs, load_inputs
from autopeft.journey.remembering import Memory, remember
from autopeft.journey.workspace import StudyFolder
from autopeft.request import Request
from autopeft.space.search_space import typical
from autopeft.workload.dataset import Dataset, Example, Metric, Task
from tests.journey.test_first_tries import earlier_study


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    request = Request(model="bert-base-uncased", task="classification", examples=100)
    return load_inputs(request, load_profile("l4"))


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    place = StudyFolder(tmp_path / "studies" / "new")
    place.path.mkdir(parents=True)
    return place


def rows(name: str = "mine", task: Task = "classification") -> Dataset:
    example = Example(text="a", label=0)
    return Dataset(
        *(),
        name=name,
        source="rows",
        fingerprint="0",
        task=task,
        metric=Metric(name="accuracy", direction="maximize"),
        labels=("a", "b"),
        train=(example,),
        validation=(example,),
        test=(example,),
    )


def scored(inputs: Inputs) -> list[tuple]:
    some = [(typical(inputs.space, {"method": name}), 0.8) for name in ("lora", "ia3", "bitfit")]
    return [(inputs.baseline, 0.8), *some]


def asked(tmp_path: Path, **fields: object) -> Request:
    return Request(workspace=str(tmp_path), study="new", **fields)  # type: ignore[arg-type]


def test_a_search_begins_with_what_comes_along_and_the_users_own_studies(
    inputs: Inputs, folder: StudyFolder, tmp_path: Path
) -> None:
    earlier_study(tmp_path, inputs, scored(inputs))
    memory, known = remember(asked(tmp_path), inputs, rows(), folder)
    assert known is not None
    assert [study.name for study in memory.own] == ["before"]
    assert len(known.studies) == 5
    assert not known.deep  # none is of this model
    assert memory.words.startswith(f"It began with what {known.trainings:,} trainings in 5 earlier studies")
    assert "(1 of this workspace) of all-MiniLM-L6-v2, m say." in memory.words


@pytest.mark.parametrize(
    ("fields", "shipped", "own"),
    [
        ({"experience": "shipped"}, 4, 0),
        ({"experience": "none"}, 0, 0),
        ({"demo": "classification"}, 4, 0),
        ({"resume": True}, 0, 0),  # it began before there was a memory
        ({"searcher": "tpe"}, 4, 1),
    ],
)
def test_what_is_left_out(
    inputs: Inputs, folder: StudyFolder, tmp_path: Path, fields: dict[str, object], shipped: int, own: int
) -> None:
    earlier_study(tmp_path, inputs, scored(inputs))
    memory, known = remember(asked(tmp_path, **fields), inputs, rows(), folder)
    assert (len(memory.shipped), len(memory.own)) == (shipped, own)
    assert (known is None) == (not shipped or "searcher" in fields)
    assert bool(memory.words) == (known is not None)


def test_what_was_recorded_on_a_demos_own_rows_is_left_out(
    inputs: Inputs, folder: StudyFolder, tmp_path: Path
) -> None:
    memory, _ = remember(asked(tmp_path, demo="classification"), inputs, rows(name="movies"), folder)
    assert sorted(memory.shipped) == ["news", "products", "tweets"]


def test_rows_of_ones_own_may_be_called_as_a_demos(
    inputs: Inputs, folder: StudyFolder, tmp_path: Path
) -> None:
    memory, _ = remember(asked(tmp_path), inputs, rows(name="movies"), folder)
    assert len(memory.shipped) == 4


def test_of_another_task_nothing_is_remembered(inputs: Inputs, folder: StudyFolder, tmp_path: Path) -> None:
    earlier_study(tmp_path, inputs, scored(inputs))
    assert remember(asked(tmp_path), inputs, rows(task="regression"), folder) == (Memory(), None)


def test_a_study_that_goes_on_remembers_what_it_began_with(
    inputs: Inputs, folder: StudyFolder, tmp_path: Path
) -> None:
    began, _ = remember(asked(tmp_path), inputs, rows(), folder)
    earlier_study(tmp_path, inputs, scored(inputs))
    assert remember(asked(tmp_path, resume=True), inputs, rows(), folder)[0] == began
