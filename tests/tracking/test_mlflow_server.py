"""A real MLflow server that is killed in the middle of a study and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest

from autopeft.search.study import Study
from autopeft.tracking import mlflow as tracking
from autopeft.tracking.mlflow import SPOOL, MlflowObserver

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

Play = Callable[..., Study]


@contextmanager
def running_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Serve the store in a folder until the block is left, by kill -9 at the latest."""
    store = f"sqlite:///{folder / 'server.db'}"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"),
            *(
                "--artifacts-destination",
                str(folder / "artifacts"),
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not answers(port):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.3)
        yield server
    finally:
        kill(server)


def kill(server: subprocess.Popen[bytes]) -> None:
    """Kill the server with its worker processes."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def everything(client: MlflowClient, experiment: str) -> dict[str, object]:
    """Return all that the store has of a study: each run with every point of every metric."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id])
    names = [run.data.tags["mlflow.runName"] for run in runs]
    assert len(set(names)) == len(names)
    return {
        run.data.tags["mlflow.runName"]: (
            run.info.status,
            run.data.params,
            {
                name: [
                    (point.step, str(point.value))  # a number that is none is not even itself
                    for point in client.get_metric_history(run.info.run_id, name)
                ]
                for name in run.data.metrics
            },
        )
        for run in runs
    }


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def test_a_server_away_from_the_start_and_again_in_the_middle_has_all_in_the_end(
    play: Play, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.0)
    uri = f"http://127.0.0.1:{port}"
    observer = MlflowObserver(uri, "gone", flush_seconds=200)
    play(observer, stop=1)  # nobody listens yet
    assert not observer.flush()
    assert "no MLflow server answers" in (observer.problem or "")
    assert "`autopeft sync` writes what is missing" in (observer.problem or "")
    with running_server(tmp_path, port):
        play(observer, known=1, stop=3)
        assert observer.flush(), observer.problem
    play(observer, known=3)  # killed: the last trial and the end of the study are missing
    assert (tmp_path / "demo" / SPOOL).exists()
    with running_server(tmp_path, port):
        study = play(observer, known=4)
        assert observer.flush(), observer.problem
        observer.close()
        undisturbed = MlflowObserver(uri, "undisturbed", flush_seconds=200)
        play(undisturbed)
        undisturbed.close()
        client = MlflowClient(tracking_uri=uri)
        seen = everything(client, "gone")
        assert len(seen) == 1 + sum(trial.state != "rejected" for trial in study.trials)
        assert seen == everything(client, "undisturbed") | {"demo": seen["demo"]}
    assert not (tmp_path / "demo" / SPOOL).exists()
