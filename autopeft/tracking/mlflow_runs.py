"""MlflowRuns: a study as MLflow runs, a parent and a child per trial. Blocking; see MlflowObserver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autopeft.errors import StorageError, UnsupportedError
from autopeft.plan.plan import Plan
from autopeft.report.facts import StudyFacts
from autopeft.search.study import Study, Trial
from autopeft.tracking.mlflow_lookup import run_of_study, runs_where
from autopeft.tracking.mlflow_names import (
    NOTE_TAG,
    PARENT_TAG,
    REASON_TAG,
    STATE_TAG,
    STUDY_ID_TAG,
    STUDY_TAG,
    TRIAL_TAG,
    WEIGHTS_TAG,
)
from autopeft.tracking.mlflow_store import open_client, open_experiment
from autopeft.tracking.mlflow_values import (
    allowed,
    candidate_params,
    is_same,
    point,
    predicted_metrics,
    profile_params,
    report_points,
    study_params,
)
from autopeft.train.result import Report

if TYPE_CHECKING:
    from mlflow.entities import Metric

_STATUS = {"complete": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}
_MOST_METRICS = 900  # MLflow takes at most 1000 in a batch
_MOST_CHARACTERS = 5000  # and about this many in a tag


class MlflowRuns:
    """Writes a study into a tracking store; what is there already is continued, never doubled."""

    def __init__(self, tracking_uri: str, experiment: str, tags: Mapping[str, str]) -> None:
        self._uri = tracking_uri
        self._client = open_client(tracking_uri)
        self._experiment = open_experiment(self._client, experiment, tracking_uri)
        self._tags = dict(tags)
        self._parent = ""
        self._over = False  # what is told again after a failure does not begin the study again
        self._metric = "score"
        self._device, self._seed = "cpu", 0
        self._profile: dict[str, object] = {}
        self._runs: dict[int, str] = {}
        self._steps: dict[int, set[int]] = {}
        self._told: dict[int, tuple[str, str]] = {}  # state and reason that the store has of a trial
        self._described: set[int] = set()
        self._refused: list[tuple[str, str, str]] = []

    @property
    def experiment_id(self) -> str:
        """Id of the experiment in the store."""
        return self._experiment

    @property
    def parent_run_id(self) -> str:
        """Id of the study's run; empty before the study began."""
        return self._parent

    def study_started(self, study: Study, plan: Plan, expected_trials: int, expected_seconds: float) -> None:
        """Begin the parent run or go on with it, and catch up with the study's trials."""
        self._begin(study, plan, {"expected_trials": expected_trials, "expected_seconds": expected_seconds})
        self._catch_up(study)

    def _begin(self, study: Study, plan: Plan, expected: Mapping[str, float]) -> None:
        self._metric, self._device = study.metric.name, plan.profile.device
        self._seed, self._profile = study.seed, profile_params(plan)
        self._refused = [(each.candidate.label, each.reason, each.way_out) for each in plan.rejected]
        self._steps.clear()  # what a broken connection left open is asked anew
        self._parent = run_of_study(self._client, self._experiment, study) or ""
        if self._parent:
            if not self._over:
                self._client.update_run(self._parent, status="RUNNING")
            self._recall()
            described = bool(self._client.get_run(self._parent).data.params)
        else:
            own_id = {STUDY_ID_TAG: study.id} if study.id else {}
            tags = {STUDY_TAG: study.name, **own_id, "mlflow.runName": study.name, **self._tags}
            self._parent = self._client.create_run(self._experiment, tags=tags).info.run_id
            described = False
        if not described:
            self._describe(self._parent, expected, study_params(study, plan))
            self._log_refused()

    def trial_started(self, trial: Trial) -> None:
        """Begin the trial's run or go on with it."""
        run = self._run(trial)
        self._client.update_run(run, status="RUNNING")
        self._log(run, tags={STATE_TAG: "running"})
        self._told[trial.number] = "running", self._told[trial.number][1]

    def trial_reported(self, trial: Trial, report: Report) -> None:
        """Log one evaluation; its step is the number of training rows seen."""
        self._log_reports(trial, (report,))

    def trial_finished(self, trial: Trial) -> None:
        """Log what was measured beside what was predicted, and end the trial's run."""
        if trial.state == "rejected":
            row = (trial.candidate.label, trial.reason, "")
            if row not in self._refused:
                self._refused.append(row)
            return
        run = self._run(trial)
        reports = trial.result.reports if trial.result else ()
        self._log_reports(trial, reports)
        if reports and trial.result:
            self._log_anew(
                run,
                {
                    "measured_peak_bytes": trial.result.peak_bytes,
                    "measured_step_seconds": reports[-1].step_seconds,
                    "measured_run_seconds": reports[-1].seconds,
                },
            )
        reason = _reason(trial)
        self._client.set_terminated(run, status=_STATUS.get(trial.state, "KILLED"))
        # Last: without them the trial is not over, and ends again.
        known = self._told[trial.number][1]
        self._log(run, tags={STATE_TAG: trial.state, **({REASON_TAG: reason} if reason != known else {})})
        self._told[trial.number] = trial.state, reason

    def study_finished(self, study: Study) -> None:
        """Catch up with the study, name its best trial and end the parent run."""
        self._catch_up(study)
        self._log_refused()
        best = study.best
        metrics: dict[str, float] = {"search_seconds": study.seconds, "trials": len(study.trials)}
        tags = {"autopeft.best": "none"}
        if best is not None and best.result is not None:
            metrics[f"best_{self._metric}"] = best.result.score
            tags = {"autopeft.best": best.candidate.label, "autopeft.best_run": self._run(best)}
        self._log_anew(self._parent, metrics, tags)
        self._client.set_terminated(self._parent)
        self._over = True

    def catch_up(self, study: Study, plan: Plan, reports: Mapping[int, Sequence[Report]]) -> int:
        """Write what the store lacks of a study, running trials included; return how many it lacked."""
        self._begin(study, plan, {"expected_trials": len(study.trials), "expected_seconds": study.seconds})
        before = dict(self._told)
        for trial in study.trials:
            if not trial.finished:
                self._log_reports(trial, reports.get(trial.number, ()))
        self.study_finished(study)
        ended = {number: told for number, told in self._told.items() if told[0] != "running"}
        return sum(before.get(number) != told for number, told in ended.items())

    def add_artifacts(self, paths: Sequence[Path]) -> None:
        """Attach files and folders to the parent run.

        Raises:
            StorageError: no study has begun.
        """
        if not self._parent:
            raise StorageError("artifacts belong to a study, but none has begun.")
        for path in paths:
            self._client.log_artifact(self._parent, str(path))

    def add_model(self, place: Path, name: str) -> None:
        """Log a bundle into the parent run, registered as a version of a model; say why where it cannot be.

        A bundle whose weights were logged before is not logged again.

        Raises:
            StorageError: no study has begun.
        """
        from autopeft.tracking.mlflow_model import log_model, weights_of

        if not self._parent:
            raise StorageError("a model belongs to a study, but none has begun.")
        weights = weights_of(place)
        if self._client.get_run(self._parent).data.tags.get(WEIGHTS_TAG) == weights:
            return
        try:
            said = log_model(self._uri, self._experiment, self._parent, place, name).uri
        except UnsupportedError as error:
            said = f"not logged: {error}"
        self._log(self._parent, tags={"autopeft.model": said, WEIGHTS_TAG: weights})

    def add_summary(self, facts: StudyFacts) -> None:
        """Attach the decision, the test scores, predictions beside measurements, and the facts."""
        if not self._parent:
            self.study_started(facts.study, facts.plan, len(facts.study.trials), facts.study.seconds)
            self.study_finished(facts.study)
        metrics: dict[str, float] = {}
        for score in facts.scores:
            name = f"test_{facts.data.metric.name}/{score.contender}"
            metrics |= {name: score.test_score, f"{name} low": score.low, f"{name} high": score.high}
            metrics |= {f"test_{extra}/{score.contender}": value for extra, value in score.extra.items()}
        for compared in facts.comparisons:
            name = f"{compared.quantity} {compared.unit}"
            metrics |= {f"predicted/{name}": compared.predicted, f"measured/{name}": compared.measured}
        metrics |= {f"seconds/{stage}": seconds for stage, seconds in facts.seconds.items()}
        note = "\n".join([facts.decision, "", *(f"- {reason}" for reason in facts.reasons)])
        self._log_anew(self._parent, metrics, {NOTE_TAG: note, "autopeft.decision": facts.decision})
        self._client.log_text(self._parent, facts.model_dump_json(indent=1), "facts.json")

    def _recall(self) -> None:
        """Learn which trials the store knows, and what of them; a run that somebody else nested is none."""
        for run in runs_where(self._client, self._experiment, f"tags.`{PARENT_TAG}` = '{self._parent}'"):
            tags = run.data.tags
            if not tags.get(TRIAL_TAG, "").isdecimal():
                continue
            number = int(tags[TRIAL_TAG])
            self._runs[number] = run.info.run_id
            if run.data.params:
                self._described.add(number)
            self._told[number] = tags.get(STATE_TAG, "running"), tags.get(REASON_TAG, "")

    def _catch_up(self, study: Study) -> None:
        """End the trials' runs that an earlier session, or a broken connection, left as they were."""
        for trial in study.trials:
            if trial.state != "running" and self._told.get(trial.number) != (trial.state, _reason(trial)):
                self.trial_finished(trial)

    def _run(self, trial: Trial) -> str:
        """Return the trial's run, made if need be with its parameters and its prediction."""
        if trial.number not in self._runs:
            tags = {
                PARENT_TAG: self._parent,
                "mlflow.runName": f"{trial.number:03d} {trial.label}"[:250],
                TRIAL_TAG: str(trial.number),
                STATE_TAG: "running",
                "autopeft.role": trial.role,
            }
            run = self._client.create_run(self._experiment, tags=tags).info.run_id
            self._runs[trial.number] = run
            self._steps[trial.number] = set()
            self._told[trial.number] = "running", ""
        if trial.number not in self._described:
            seed = {"seed": self._seed + trial.repetition, "repetition": trial.repetition}
            params = candidate_params(trial.candidate) | seed | self._profile
            self._describe(self._runs[trial.number], predicted_metrics(trial, self._device), params)
            self._described.add(trial.number)
        return self._runs[trial.number]

    def _describe(self, run: str, metrics: Mapping[str, float], params: Mapping[str, object]) -> None:
        """Log what a run begins with, parameters last: without them it was cut off and is described again."""
        self._log_anew(run, metrics)
        self._log(run, params=params)

    def _log_reports(self, trial: Trial, reports: Sequence[Report]) -> None:
        if not reports:
            return
        run = self._run(trial)
        logged = self._logged(trial.number, run)
        batch: list[Metric] = []
        for report in reports:
            if report.samples in logged:
                continue
            points = report_points(report, self._metric)
            if len(batch) + len(points) > _MOST_METRICS:
                self._client.log_batch(run, metrics=batch)
                batch = []
            batch += points
        if batch:
            self._client.log_batch(run, metrics=batch)
        logged.update(report.samples for report in reports)

    def _logged(self, number: int, run: str) -> set[int]:
        """Return the steps of a run that the store has; asked once for a run of an earlier session."""
        if number not in self._steps:
            history = self._client.get_metric_history(run, allowed(self._metric))
            self._steps[number] = {int(metric.step) for metric in history}
        return self._steps[number]

    def _log_anew(
        self, run: str, metrics: Mapping[str, float], tags: Mapping[str, str] | None = None
    ) -> None:
        """Log those metrics whose last value in the store is another, so that none is there twice."""
        known = self._client.get_run(run).data.metrics
        changed = {
            name: value for name, value in metrics.items() if not is_same(known.get(allowed(name)), value)
        }
        self._log(run, metrics=changed, tags=tags)

    def _log_refused(self) -> None:
        """Attach one table of what never started, in the form MLflow's own tables have."""
        if self._refused:
            columns = ["configuration", "reason", "way_out"]
            table = {"columns": columns, "data": [list(row) for row in self._refused]}
            self._client.log_dict(self._parent, table, "rejected.json")

    def _log(
        self,
        run: str,
        *,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag

        most = _MOST_CHARACTERS
        self._client.log_batch(
            run,
            metrics=[point(name, value, 0) for name, value in (metrics or {}).items()],
            params=[Param(allowed(name), str(value)[:most]) for name, value in (params or {}).items()],
            tags=[RunTag(name, value[:most]) for name, value in (tags or {}).items()],
        )


def _reason(trial: Trial) -> str:
    """Return why a trial ended as it did, as far as a tag holds it."""
    return (trial.reason or (trial.result.reason if trial.result else ""))[:_MOST_CHARACTERS]
