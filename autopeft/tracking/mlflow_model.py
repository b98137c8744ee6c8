"""A bundle as an MLflow model: with signature and example, from code, registered as a version."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autopeft.errors import StorageError
from autopeft.export.bundle import Bundle
from autopeft.export.opening import open_bundle, read_bundle
from autopeft.export.served_model import columns_of, model_code
from autopeft.message import Message
from autopeft.tracking.mlflow_store import open_client

_TRACKING, _REGISTRY = "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"
_REQUIREMENTS = ("torch", "transformers", "peft", "safetensors", "pandas")


class Registered(Message):
    """A logged model.

    Attributes:
        uri: what `mlflow.pyfunc.load_model` takes.
    """

    name: str
    version: str
    uri: str


def weights_of(place: Path) -> str:
    """Return a digest of the weights in a bundle, which tells whether it is logged already.

    Raises:
        InputError: there is no bundle.
    """
    files = sorted(read_bundle(place).files.items())
    weights = [digest for name, digest in files if name.endswith(".safetensors")]
    return hashlib.sha256(" ".join(weights).encode()).hexdigest()


def log_model(tracking_uri: str, experiment_id: str, run: str, place: Path, name: str) -> Registered:
    """Log a bundle into a run, and register it as a version of a model.

    Raises:
        UnsupportedError: such a model is not logged.
        BundleError: the bundle is not as it was exported.
        StorageError: the store refuses it.
    """
    bundle = open_bundle(place)
    code = model_code(bundle)
    client = open_client(tracking_uri)
    import mlflow
    from mlflow.exceptions import MlflowException

    # What was set is in the environment too; asking MLflow would name its defaults, and pin them.
    before = os.environ.get(_TRACKING), os.environ.get(_REGISTRY)
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "served.py"
            file.write_text(code, encoding="utf-8")
            attached = mlflow.start_run(run_id=run, experiment_id=experiment_id, log_system_metrics=False)
            with attached, _quietly():
                made = mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(file),
                    artifacts={"bundle": str(place)},
                    **_described(bundle),
                )
        with _quietly():  # again: logging a model ends with MLflow's announcements turned on
            version = str(mlflow.register_model(made.model_uri, name).version)
        client.get_model_version(name, version)
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(f"the model cannot be logged to MLflow at {tracking_uri}: {reason}") from None
    finally:
        mlflow.set_tracking_uri(before[0])  # type: ignore[arg-type]  # None takes it back
        mlflow.set_registry_uri(before[1])  # type: ignore[arg-type]
        if before[1] is None:
            os.environ.pop(_REGISTRY, None)
    return Registered(name=name, version=version, uri=f"models:/{name}/{version}")


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep MLflow's advice, progress bars and announcements off the user's terminal."""
    from mlflow.utils.logging_utils import MLFLOW_LOGGING_STREAM

    MLFLOW_LOGGING_STREAM.enabled = False
    try:
        with warnings.catch_warnings():
            # Its own advice passes every filter.
            warnings.showwarning = lambda *_, **__: None
            yield
    finally:
        MLFLOW_LOGGING_STREAM.enabled = True


def _described(bundle: Bundle) -> dict[str, Any]:
    """Return signature, example and requirements."""
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    (column, example), outputs = columns_of(bundle)
    writes = column == "prompt"
    params: Any = ParamSchema([ParamSpec("max_new_tokens", "integer", 64)]) if writes else None
    needed = [f"{each}=={bundle.versions[each]}" for each in _REQUIREMENTS if each in bundle.versions]
    return {
        "signature": ModelSignature(
            inputs=Schema([ColSpec("string", column)]),
            outputs=Schema([ColSpec(kind, name) for name, kind in outputs]),
            params=params,
        ),
        "input_example": pd.DataFrame({column: [example]}) if column != "image" else None,
        "pip_requirements": [*needed, *(["autopeft"] if bundle.format == "autopeft" else [])] or ["mlflow"],
        "metadata": {
            "autopeft": {"study": bundle.study, "trial": bundle.trial, "refit_rows": bundle.refit_rows}
        },
    }
