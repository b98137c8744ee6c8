"""Find a trial's run in a tracking store."""

from __future__ import annotations

import logging

from autopeft.tracking.mlflow_runs import STUDY_TAG, TRIAL_TAG
from autopeft.tracking.mlflow_store import open_existing

_PARENT = "mlflow.parentRunId"


def run_of(tracking_uri: str, experiment: str, study: str, trial: int) -> str | None:
    """Return the id of a trial's run; None where the store does not have it, or cannot be asked."""
    try:
        client = open_existing(tracking_uri)
        known = client.get_experiment_by_name(experiment)
        if known is None:
            return None
        ids = [known.experiment_id]
        studies = client.search_runs(ids, f"tags.`{STUDY_TAG}` = '{study}'", order_by=["start_time ASC"])
        of_study = f"tags.`{_PARENT}` = '{studies[0].info.run_id}'" if studies else ""
        runs = client.search_runs(ids, f"{of_study} AND tags.`{TRIAL_TAG}` = '{trial}'") if studies else []
    # A store is a help here, and nothing that it raises may keep a bundle from being written.
    except Exception as error:  # noqa: BLE001
        logging.getLogger(__name__).debug("no MLflow run of trial %s: %s", trial, error)
        return None
    return str(runs[0].info.run_id) if runs else None
