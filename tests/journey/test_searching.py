"""Before a search starts: what does not fit is refused with all that the user has to know."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from linear_cost import LinearCost

from autopeft.errors import DataError, DoesNotFitError, InputError, StorageError
from autopeft.hardware.catalog import load_profile
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey.allowing import whole_time
from autopeft.journey.asking import open_study
from autopeft.journey.inputs import load_inputs, require_dataset
from autopeft.journey.remembering import remember
from autopeft.journey.searching import require_fits, run_search
from autopeft.journey.workspace import open_store, study_folder
from autopeft.methods.registry import DEFAULT
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan, Rejected
from autopeft.request import Request
from autopeft.search import ray_runner
from autopeft.search import store as stores
from autopeft.search.store import StudyStore
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import ACCURACY, Dataset, Lengths, Workload


def test_a_refusal_says_that_the_profile_it_rests_on_is_doubtful() -> None:
    sure = Plan(
        model="m",
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(8)),
        budget=Budget(),
        profile=load_profile("l4"),
        fits=(),
        rejected=(Rejected(candidate=DEFAULT, reason="one training takes 8 min, the limit is 3 min"),),
    )
    slowed = sure.profile.model_copy(
        update={"warnings": ("other work slows this machine; profile it again",)}
    )
    with pytest.raises(DoesNotFitError, match=r"the limit is 3 min\.$"):
        require_fits(sure)
    with pytest.raises(DoesNotFitError, match="doubtful: other work slows this machine"):
        require_fits(sure.model_copy(update={"profile": slowed}))


@pytest.mark.parametrize(("given", "whole"), [(None, 7200), (600, 4600)])
def test_a_time_that_is_given_anew_is_added_to_what_was_spent(
    tmp_path: Path, given: float | None, whole: float
) -> None:
    store = StudyStore(tmp_path / "study.db")
    plan = Plan(
        model="m",
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(8)),
        budget=Budget(time=7200),
        profile=load_profile("l4"),
        fits=(),
        rejected=(),
    )
    store.create(name="s", metric=ACCURACY, seed=0, request="{}", plan=plan)
    store.add_seconds(4000)
    assert whole_time(Request(budget=Budget(time=given)), store) == whole
    store.replan(plan.model_copy(update={"budget": plan.budget.model_copy(update={"time": whole})}))
    assert whole_time(Request(), store) == whole


def test_a_resumption_takes_the_budget_and_nothing_else(tmp_path: Path) -> None:
    asked = Request(
        model="m",
        data="d.csv",
        study="s",
        workspace=str(tmp_path),
        budget=Budget(time=7200, trials=8),
        front="share",
    )
    folder, _ = open_study(asked)
    store = open_store(folder, None)
    plan = Plan(
        model="m",
        space="quick",
        workload=Workload(task="classification", lengths=Lengths.constant(8)),
        budget=asked.budget,
        profile=load_profile("l4"),
        fits=(),
        rejected=(),
    )
    store.create(name="s", metric=ACCURACY, seed=0, request=asked.model_dump_json(), plan=plan)
    store.close()
    again = {"study": "s", "workspace": str(tmp_path), "resume": True}
    _, same = open_study(Request(**again))
    assert (same.budget.time, same.budget.trials, same.front) == (None, 8, "share")
    _, longer = open_study(Request(**again, budget=Budget(time=600)))
    assert (longer.budget.time, longer.budget.trials) == (600, None)
    with pytest.raises(InputError, match="keeps what it began with: seed"):
        open_study(Request(**again, seed=3))
    with pytest.raises(InputError, match="keeps what it began with: front is 'share', but got 'memory'"):
        open_study(Request(**again, front="memory"))


class Killed(BaseException):
    """What ends a process at once."""


@pytest.fixture
def asked(tmp_path: Path, sentiment: Dataset, encoder_with_weights: BaseModel) -> Request:
    """A search of real rows for a real, tiny model, in a database of its own."""
    rows = [*sentiment.train, *sentiment.validation, *sentiment.test]
    lines = [f"{row.text} {at},{sentiment.labels[row.label]}" for at, row in enumerate(rows)]
    data = tmp_path / "rows.csv"
    data.write_text("\n".join(["text,label", *lines]))
    return Request(
        model=str(encoder_with_weights.path),
        data=str(data),
        study="s",
        workspace=str(tmp_path),
        storage=f"sqlite:///{tmp_path}/shared.db",
        seq_len=16,
    )


def search_until(monkeypatch: pytest.MonkeyPatch, request: Request, moment: str) -> None:
    """Search, and die right after a study's tables, or the study itself, are written."""
    place, name = {"tables": (stores, "make_tables"), "study": (StudyStore, "create")}[moment]
    original, profile = getattr(place, name), load_profile("l4")

    def die(*given: object, **named: object) -> None:
        original(*given, **named)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(place, name, die)
        with pytest.raises(Killed):
            run_search(request, lambda _: profile, LinearCost(), (), lambda *_: None)


def test_what_was_killed_before_the_study_was_written_begins_anew_with_other_data(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked.model_copy(update={"storage": None})
    search_until(monkeypatch, asked, "tables")
    with pytest.raises(StorageError, match="start one without --resume"):
        open_study(asked.model_copy(update={"resume": True}))
    data = Path(asked.data or "")
    data.write_text(data.read_text() + "\ngood one more,good")
    search_until(monkeypatch, asked, "study")
    with pytest.raises(InputError, match="exists already"):
        open_study(asked)


def test_a_study_on_a_server_that_was_killed_when_it_began_is_found_again(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_until(monkeypatch, asked, "study")
    folder, _ = open_study(Request(study="s", workspace=asked.workspace, resume=True))
    assert open_store(folder).load().name == "s"


def test_what_is_wrong_with_the_data_is_said_before_the_machine_is_measured(
    tmp_path: Path, encoder_with_weights: BaseModel
) -> None:
    def measure(request: Request) -> HardwareProfile:
        pytest.fail("the machine was measured")

    (tmp_path / "rows.csv").write_text("text,label\n,good\nbad film,bad\n")
    request = Request.build(
        model=encoder_with_weights.path, data=str(tmp_path / "rows.csv"), workspace=str(tmp_path / "ws")
    )
    with pytest.raises(DataError):
        run_search(request, measure, LinearCost(), (), lambda *_: None)
    assert not list((tmp_path / "ws" / "studies").iterdir()), "what was refused leaves no study"


def test_a_tokenizer_that_cannot_be_had_is_said_before_the_machine_is_measured(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(request: Request) -> HardwareProfile:
        pytest.fail("the machine was measured")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    named = asked.model_copy(update={"model": "Llama-3.1-8B"})
    with pytest.raises(InputError, match="tokenizer"):
        run_search(named, measure, LinearCost(), (), lambda *_: None)


def test_what_lies_in_the_folder_of_a_refused_study_stays(asked: Request, tmp_path: Path) -> None:
    folder = study_folder(str(tmp_path), "s").path
    folder.mkdir(parents=True)
    for name in ("notes.txt", "data.json"):
        (folder / name).write_text("{}")
    with pytest.raises(DoesNotFitError):
        run_search(
            asked.model_copy(update={"budget": Budget(gpu_mem=1)}),
            lambda _: load_profile("l4"),
            LinearCost(),
            (),
            lambda *_: None,
        )
    assert {each.name for each in folder.iterdir()} == {"notes.txt", "data.json"}


def test_a_study_that_was_killed_when_it_began_still_knows_what_it_began_with(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    search_until(monkeypatch, asked, "study")
    folder, request = open_study(Request(study="s", workspace=asked.workspace, resume=True))
    profile = load_profile("l4")
    inputs = load_inputs(request, profile)
    memory, known = remember(request, inputs, require_dataset(inputs), folder)
    assert len(memory.shipped) == 4
    assert known is not None


def test_the_time_of_a_search_that_is_interrupted_is_spent(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(ray_runner, "run_on_ray", interrupted)
    profile = load_profile("l4")
    with pytest.raises(KeyboardInterrupt):
        run_search(asked, lambda _: profile, LinearCost(), (), lambda *_: None)
    store = open_store(study_folder(asked.workspace, "s"))
    assert store.load().seconds >= 0.2
    assert whole_time(Request(budget=Budget(time=100)), store) >= 100.2


def test_a_run_that_has_no_time_for_more_than_its_export_is_refused_before_anything_is_measured(
    asked: Request,
) -> None:
    def measure(request: Request) -> HardwareProfile:
        pytest.fail("the machine was measured")

    short = asked.model_copy(update={"budget": Budget(time=20)})
    with pytest.raises(DoesNotFitError, match=r"about 25\.0 s beside its training.*the time is 20\.0 s"):
        run_search(short, measure, LinearCost(), (), lambda *_: None, concludes=True)


def test_a_study_that_goes_on_is_planned_anew_for_the_machine_and_the_time_as_they_are_now(
    asked: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan_of(request: Request, profile: HardwareProfile) -> Plan:
        with pytest.raises(Killed):
            run_search(request, lambda _: profile, LinearCost(), (), lambda *_: None)
        return open_store(study_folder(asked.workspace, "s")).plan()

    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(ray_runner, "run_on_ray", killed)
    sure = load_profile("l4")
    doubtful = sure.model_copy(update={"warnings": ("other work",), "disturbance": 0.5})
    asked = asked.model_copy(update={"storage": None})
    first = plan_of(asked, doubtful)
    again = asked.model_copy(update={"resume": True, "budget": Budget(time=7200)})
    later = plan_of(again, sure)
    assert (first.profile.doubt, later.profile.doubt) == (0.5, 0)
    assert later.budget.time == pytest.approx(7200, abs=5)
    hopeless = plan_of(again.model_copy(update={"budget": Budget(gpu_mem=1)}), sure)
    assert hopeless.fits == later.fits, "what was begun may still end"
