"""Find what a tracking store has: the runs of an experiment, of a study, and of its trials."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from autopeft.errors import InputError
from autopeft.message import Message
from autopeft.search.study import Study
from autopeft.tracking.mlflow_names import PARENT_TAG, STUDY_ID_TAG, STUDY_TAG, TRIAL_TAG
from autopeft.tracking.mlflow_store import open_existing

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class RecordedRun(Message):
    """A run as a store has it: its last metrics by name, its parameters as text."""

    id: str
    params: dict[str, str]
    metrics: dict[str, float]


def recorded_runs(uri: str, experiment: str) -> Iterator[RecordedRun]:
    """Yield the runs of an experiment, the oldest first.

    Raises:
        InputError: there is no such store or experiment.
        StorageError: a server does not answer.
    """
    client = open_existing(uri)
    known = client.get_experiment_by_name(experiment)
    if known is None:
        raise InputError(f"an experiment of that name must be at {uri}, but {experiment!r} is not.")
    for run in runs_where(client, known.experiment_id):
        yield RecordedRun(id=run.info.run_id, params=run.data.params, metrics=run.data.metrics)


def runs_where(client: MlflowClient, experiment_id: str, condition: str = "") -> Iterator[Run]:
    """Yield the runs of an experiment that meet a condition, the oldest first, however many there are."""
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], condition, order_by=["start_time ASC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def run_of_study(client: MlflowClient, experiment_id: str, study: Study) -> str | None:
    """Return the id of a study's run; None where there is none.

    It has the study's name and its id: another study of that name, begun after this one was deleted or by
    somebody else, has a run of its own. One without an id goes on with a run without one.
    """
    named = runs_where(client, experiment_id, f"tags.`{STUDY_TAG}` = '{study.name}'")
    ids = (run.info.run_id for run in named if run.data.tags.get(STUDY_ID_TAG, "") == study.id)
    return next(ids, None)


def run_of(tracking_uri: str, experiment: str, study: Study, trial: int) -> str | None:
    """Return the id of a trial's run; None where the store does not have it, or cannot be asked."""
    try:
        client = open_existing(tracking_uri)
        known = client.get_experiment_by_name(experiment)
        parent = run_of_study(client, known.experiment_id, study) if known is not None else None
        if known is None or parent is None:
            return None
        condition = f"tags.`{PARENT_TAG}` = '{parent}' AND tags.`{TRIAL_TAG}` = '{trial}'"
        run = next(runs_where(client, known.experiment_id, condition), None)
    # A store is a help here, and nothing that it raises may keep a bundle from being written.
    except Exception as error:  # noqa: BLE001
        logging.getLogger(__name__).debug("no MLflow run of trial %s: %s", trial, error)
        return None
    return None if run is None else str(run.info.run_id)
