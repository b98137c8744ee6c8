"""What autopeft calls things in MLflow: tags of runs, and the parameters that calibrating looks for."""

from __future__ import annotations

STUDY_TAG, STUDY_ID_TAG = "autopeft.study", "autopeft.study.id"
TRIAL_TAG, STATE_TAG, REASON_TAG = "autopeft.trial", "autopeft.state", "autopeft.reason"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG, WEIGHTS_TAG = "mlflow.note.content", "autopeft.model.weights"
PROFILE, PROFILE_DIGEST = "profile", "profile_digest"
"""Of a trial's run: the device that its times were predicted for, as it was measured then."""
SEVERAL = "several"
"""In the place of the digest where a study went on after its machine had been measured anew."""
