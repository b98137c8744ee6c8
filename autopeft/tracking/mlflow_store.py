"""Open an MLflow tracking store: quietly, privately, and without waiting for a server that is not there."""

from __future__ import annotations

import logging
import os
import socket
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from autopeft.errors import InputError, StorageError
from autopeft.files import make_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient


def default_tracking_uri(workspace: Path) -> str:
    """Return the address of the database in a workspace; artifacts lie beside it."""
    return f"sqlite:///{(workspace / 'mlflow.db').resolve()}"


def open_client(tracking_uri: str) -> MlflowClient:
    """Return a client of the store; slow the first time, as MLflow is imported and its tables are made.

    Raises:
        StorageError: no server listens at a server's address, or a database's folder cannot be made.
    """
    _check_reachable(tracking_uri)
    # MLflow reports its use over the network unless told not to.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # And it repeats a request to a server that went away for four minutes; here the study is the memory.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # Its bars for files that lie beside each other on one disk are of no use to anybody.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    # It announces every step of its database migrations; and sets its own level when it is imported.
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    database = _database(tracking_uri)
    if database is not None:
        make_folder(database.parent)
    return MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)


def open_existing(tracking_uri: str) -> MlflowClient:
    """Return a client of a store that is there already; nothing is made.

    Raises:
        InputError: there is no such store, or it is none of MLflow's.
        StorageError: no server listens at a server's address.
    """
    scheme = urlparse(tracking_uri).scheme
    if scheme not in ("http", "https", "sqlite"):
        raise InputError(
            "an MLflow store must be sqlite:///FILE or the http address of a server, "
            f"but got {tracking_uri!r}."
        )
    database = _database(tracking_uri)
    if scheme == "sqlite" and (database is None or not _holds_experiments(database)):
        raise InputError(f"a database of MLflow must be at {tracking_uri}, but there is none.")
    return open_client(tracking_uri)


def _holds_experiments(database: Path) -> bool:
    if not database.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("SELECT 1 FROM experiments LIMIT 1")
    except sqlite3.Error:
        return False
    return True


def open_experiment(client: MlflowClient, name: str, tracking_uri: str) -> str:
    """Return the id of the experiment, made if need be; its artifacts lie beside a local database."""
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    database = _database(tracking_uri)
    place = None if database is None else (database.parent / "mlartifacts").as_uri()
    return str(client.create_experiment(name, artifact_location=place))


def _database(tracking_uri: str) -> Path | None:
    scheme = "sqlite:///"
    return Path(tracking_uri.removeprefix(scheme)).resolve() if tracking_uri.startswith(scheme) else None


def _check_reachable(tracking_uri: str, seconds: float = 5.0) -> None:
    """Find out at once whether a server listens; MLflow itself would retry for minutes."""
    place = urlparse(tracking_uri)
    if place.scheme not in ("http", "https") or not place.hostname:
        return
    port = place.port or (443 if place.scheme == "https" else 80)
    try:
        socket.create_connection((place.hostname, port), timeout=seconds).close()
    except OSError as error:
        server = f"{place.hostname}:{port}"
        raise StorageError(
            f"no MLflow server answers at {server} ({error}); start it, or name another."
        ) from None
