"""From measured runs to a correction that estimates carry: files, studies, MLflow, and what is refused."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from linear_cost import LinearCost

from autopeft import pipeline
from autopeft.cost.correction import Calibration
from autopeft.cost.costing import calibrated
from autopeft.cost.estimate import CostEstimate
from autopeft.errors import AutopeftError, ConfigError, InputError
from autopeft.files import THIS_MACHINE
from autopeft.hardware.catalog import load_profile, save_profile
from autopeft.hardware.profile import HardwareProfile
from autopeft.journey import calibrating
from autopeft.plan.budget import Budget
from autopeft.plan.plan import Plan
from autopeft.request import Request
from autopeft.search.schedule import share_of
from autopeft.search.study import Study, Trial
from autopeft.space.candidate import Candidate
from autopeft.tracking.mlflow_runs import MlflowRuns
from autopeft.tracking.mlflow_store import open_existing
from autopeft.train.result import Report, TrialResult
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import ACCURACY, Lengths, Workload

HEADER = "predicted_step_seconds,measured_step_seconds\n"
WORKLOAD = Workload(task="classification", lengths=Lengths.constant(64))
CANDIDATE = Candidate(method="lora", rank=8)


def estimate_of(profile: HardwareProfile, base: BaseModel) -> CostEstimate:
    (found,) = LinearCost().estimate_many(base, [CANDIDATE], WORKLOAD, profile)
    assert isinstance(found, CostEstimate)
    return found


def test_runs_are_read_from_a_file_and_corrected_predictions_are_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text(
        "\ufeffname,measured_step_seconds,predicted_step_seconds,predicted_correction\na,3,2,\nb,,,\nc,3,2,2\n"
    )

    found = calibrating.from_csv(file)

    assert [(run.predicted_seconds, run.measured_seconds) for run in found] == [(2, 3), (1, 3)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            "a,b\n1,2\n",
            "must have the columns predicted_step_seconds and measured_step_seconds, but has: a, b",
        ),
        ("", "must have the columns predicted_step_seconds and measured_step_seconds, but has: none"),
        (HEADER + "inf,1\n", r"line 2: .*\('inf', '1'\)"),
        (HEADER + "1,inf\n", r"line 2: .*\('1', 'inf'\)"),
        (HEADER + "1,2\n1,\n", r"line 3: .*\('1', 'None'\)"),
        (HEADER + "1," + "9" * 200_000 + "\n", "cannot be read: field larger than field limit"),
        (HEADER + "1," + "9" * 100_000 + "\n", "line 2: a run must have"),
    ],
    ids=["other columns", "empty", "endless prediction", "endless run", "half a run", "huge", "long"],
)
def test_a_file_that_holds_no_runs_is_one_short_line(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "runs.csv"
    file.write_text(content)

    with pytest.raises(ConfigError, match=complaint) as caught:
        calibrating.from_csv(file)

    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_study_teaches_by_its_measured_trials_what_was_predicted_before_any_correction(
    tiny_bert: BaseModel,
) -> None:
    predicted = estimate_of(load_profile("l4"), tiny_bert)
    corrected = predicted.time.model_copy(update={"step_seconds": 4.0, "correction": 4.0})
    measured = TrialResult.model_construct(reports=(Report.model_construct(step_seconds=2.0),))
    plain = Trial.model_construct(number=0, predicted=predicted, result=measured)
    trials = (
        plain,
        plain.model_copy(update={"predicted": predicted.model_copy(update={"time": corrected})}),
        plain.model_copy(update={"predicted": None}),
        plain.model_copy(update={"result": None}),
    )

    found = calibrating.from_study(
        Study.model_construct(name="x", folder="x", metric=ACCURACY, seed=0, trials=trials)
    )

    assert [(run.predicted_seconds, run.measured_seconds) for run in found] == [(1, 2), (1, 2)]
    assert found[0].features["log_step"] == found[1].features["log_step"] == 0


def test_a_study_of_another_device_or_of_an_earlier_measurement_teaches_nothing() -> None:
    profile = load_profile("l4")
    plan = Plan.model_construct(profile=share_of(profile, 2))

    calibrating.require_same_device(plan, profile, "x")
    with pytest.raises(InputError, match="another profile of l4"):
        calibrating.require_same_device(plan.model_copy(update={"earlier": ("0123",)}), profile, "x")
    with pytest.raises(InputError, match="of 'l4', not of 't4'; leave out --device"):
        calibrating.require_same_device(plan, load_profile("t4"), "x")
    with pytest.raises(InputError, match="another profile of l4"):
        calibrating.require_same_device(plan, profile.model_copy(update={"dispatch_seconds": 1.0}), "x")


def calibrated_l4(workspace: Path, runs: int = 12) -> tuple[Request, Calibration]:
    """Calibrate by runs that all take twice what was predicted."""
    file = workspace / "runs.csv"
    file.write_text(HEADER + "1,2\n" * runs)
    request = Request(workspace=str(workspace))
    return request, pipeline.calibrate(request, device="L4", runs=file)


def test_a_calibration_is_kept_under_the_name_of_its_profile_and_corrects_it_alone(
    tmp_path: Path, tiny_bert: BaseModel
) -> None:
    request, made = calibrated_l4(tmp_path)
    profile = load_profile("l4")
    plain = estimate_of(profile, tiny_bert)

    known = calibrating.known(Path(request.workspace))
    ((_, found),) = calibrated([(0, plain)], known["l4"], share_of(profile, 2))
    other = profile.model_copy(update={"dispatch_seconds": 1.0})
    ((_, left),) = calibrated([(0, plain)], known["l4"], other)

    assert known == {"l4": made}
    assert not isinstance(found, AutopeftError)
    assert not isinstance(left, AutopeftError)
    assert found.time.step_seconds == pytest.approx(2 * plain.time.step_seconds)
    assert "calibrated by 12 measured runs" in found.provenance
    assert left.time == plain.time
    assert "was made for another profile" in left.guesses[-1]


class Calibrating(LinearCost):
    """The linear cost model, corrected as the traced one is."""

    def __init__(self, calibrations: Mapping[str, Calibration], brief: bool = False) -> None:
        super().__init__()
        self._calibrations = calibrations

    def _cost(self, *asked: Any) -> CostEstimate | AutopeftError:
        profile: HardwareProfile = asked[2]
        found = super()._cost(*asked)
        return calibrated([(0, found)], self._calibrations.get(profile.name), profile)[0][1]


def test_what_was_calibrated_corrects_estimates_and_overviews(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autopeft.cost.model.TracedCostModel", Calibrating)
    request = Request(workspace=str(tmp_path), gpu="l4", model="gpt2")

    def seconds() -> list[float]:
        judged = pipeline.estimate(request, CANDIDATE).estimate
        (option, *_) = pipeline.overview(request)[0].options
        overviewed = option.verdict.estimate
        assert judged is not None
        assert overviewed is not None
        return [judged.time.step_seconds, overviewed.time.step_seconds]

    before = seconds()
    calibrated_l4(tmp_path)

    assert seconds() == pytest.approx([2 * each for each in before])


def test_a_band_of_few_runs_is_as_wide_as_without_them(tmp_path: Path) -> None:
    _, made = calibrated_l4(tmp_path, runs=3)
    assert (made.below, made.above) == (pytest.approx(math.log(0.65)), pytest.approx(math.log(1.35)))

    save_profile(
        load_profile("l4").model_copy(
            update={"provenance": load_profile("l4").provenance.model_copy(update={"kind": "measured"})}
        ),
        tmp_path / "profiles" / f"{THIS_MACHINE}.yaml",
    )
    own = pipeline.calibrate(Request(workspace=str(tmp_path)), runs=tmp_path / "runs.csv")
    assert own.above == pytest.approx(math.log(1.25))


@pytest.mark.parametrize("device", ["NOSUCH", "../../esc", ""])
def test_a_device_that_nobody_knows_is_refused_and_nothing_written(tmp_path: Path, device: str) -> None:
    (tmp_path / "runs.csv").write_text(HEADER + "1,2\n" * 12)
    request = Request(workspace=str(tmp_path / "a" / "b"))

    with pytest.raises(InputError, match="unknown device"):
        pipeline.calibrate(request, device=device, runs=tmp_path / "runs.csv")

    assert [file.name for file in tmp_path.rglob("*")] == ["runs.csv"]


def test_runs_come_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--runs and --study"):
        pipeline.calibrate(Request(study="x"), device="l4", runs=tmp_path)
    with pytest.raises(InputError, match="--runs and --mlflow"):
        pipeline.calibrate(Request(), device="l4", runs=tmp_path, mlflow="sqlite:///x.db")


def log_study(
    uri: str, name: str, base: BaseModel, profile: HardwareProfile, trials: int, **made: Any
) -> None:
    """Log trials to MLflow that took twice what was predicted on a device."""
    predicted = estimate_of(profile, base)
    seen = Report(
        samples=1, step=1, loss=1, score=0.5, seconds=1, step_seconds=2 * predicted.time.step_seconds,
        peak_bytes=1,
    )  # fmt: skip
    one = Trial(
        number=0, role="candidate", candidate=CANDIDATE, state="complete", predicted=predicted,
        result=TrialResult(state="complete", reports=(seen,)),
    ).model_copy(update=made)  # fmt: skip
    known = tuple(one.model_copy(update={"number": number}) for number in range(trials))
    study = Study(name=name, id=name, folder="x", metric=ACCURACY, seed=0, trials=known)
    plan = Plan(
        model="m", space="quick", workload=WORKLOAD, budget=Budget(), profile=share_of(profile, 2), fits=(),
        rejected=(),
    )  # fmt: skip
    MlflowRuns(uri, "autopeft", {}).catch_up(study, plan, {})


def test_runs_in_mlflow_teach_about_their_own_device_and_the_others_are_counted(
    tmp_path: Path, tiny_bert: BaseModel
) -> None:
    uri, request = f"sqlite:///{tmp_path / 'mlflow.db'}", Request(workspace=str(tmp_path))
    l4, t4 = load_profile("l4"), load_profile("t4")
    slow = Report(samples=1, step=1, loss=1, score=0.5, seconds=1, step_seconds=900, peak_bytes=1)
    slowly = {"result": TrialResult(state="complete", reports=(slow,))}
    log_study(uri, "elsewhere", tiny_bert, t4, 4, **slowly)
    log_study(uri, "before", tiny_bert, l4.model_copy(update={"dispatch_seconds": 1.0}), 2, **slowly)
    log_study(uri, "unforeseen", tiny_bert, l4, 1, predicted=None)
    client = open_existing(uri)
    experiment = client.search_experiments(filter_string="name = 'autopeft'")[0].experiment_id
    for metrics in (
        {"measured_step_seconds": 3.0},
        {"measured_step_seconds": 3.0, "predicted_step_seconds": 1.0},
    ):
        run = client.create_run(experiment).info.run_id
        for name, value in metrics.items():
            client.log_metric(run, name, value)
    others = (
        "MLflow experiment autopeft; runs left out: 4 of another device, 2 of another profile of l4, "
        "1 without a prediction, 2 without their profile"
    )

    with pytest.raises(InputError, match=rf"at least 3 measured runs .* but got 0 \({others}\)"):
        pipeline.calibrate(request, device="l4", mlflow=uri)
    assert calibrating.known(tmp_path) == {}

    log_study(uri, "here", tiny_bert, l4, 5)
    made = pipeline.calibrate(request, device="l4", mlflow=uri)

    assert (made.runs, made.source, made.profile) == (5, others, l4.digest)
    assert made.offset == pytest.approx(math.log(2))
    assert pipeline.calibrate(request, device="t4", mlflow=uri).runs == 4


def test_a_run_whose_times_cannot_be_keeps_no_other_from_teaching(
    tmp_path: Path, tiny_bert: BaseModel
) -> None:
    uri, l4 = f"sqlite:///{tmp_path / 'mlflow.db'}", load_profile("l4")
    endless = Report(samples=1, step=1, loss=1, score=0.5, seconds=1, step_seconds=math.nan, peak_bytes=1)
    log_study(uri, "endless", tiny_bert, l4, 1, result=TrialResult(state="complete", reports=(endless,)))
    log_study(uri, "here", tiny_bert, l4, 2)

    found, source = calibrating.from_mlflow(uri, "autopeft", l4)

    assert [run.measured_seconds / run.predicted_seconds for run in found] == [pytest.approx(2)] * 2
    assert source.endswith("runs left out: 1 with times that cannot be")


@pytest.mark.parametrize("name", ["nowhere/x.db", "other.db", "empty.db", "text.db"])
def test_a_store_that_is_none_of_mlflows_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("no database at all")
    before = {file: file.stat().st_size for file in tmp_path.rglob("*")}

    with pytest.raises(InputError, match="a database of MLflow must be at"):
        calibrating.from_mlflow(f"sqlite:///{tmp_path / name}", "autopeft", load_profile("l4"))

    assert {file: file.stat().st_size for file in tmp_path.rglob("*")} == before


def test_a_store_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="sqlite:///FILE"):
        calibrating.from_mlflow("nonsense://x", "autopeft", load_profile("l4"))
