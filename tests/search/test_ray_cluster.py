"""A search on three Ray nodes, one of which dies; and what a cluster must have."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from toy_training import Recorder, ToyFactory, ToyRun

from autopeft.errors import InputError
from autopeft.search.desk import checkpoint_folder
from autopeft.search.halving import Rungs
from autopeft.search.loop import Search
from autopeft.search.ray_runner import run_on_ray
from autopeft.search.ray_start import count_nodes
from autopeft.search.store import StudyStore
from autopeft.search.study import Trial
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report

# A cluster starts in about 12 s.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

RUNGS = Rungs(samples=(10, 30, 60), reduction=2)


class OnNode(ToyRun):
    """Says on which node it trained, as the number that its id begins with."""

    def advance(self, samples: int) -> Report:
        report = super().advance(samples)
        node = float(int(ray.get_runtime_context().get_node_id()[:10], 16))
        return report.model_copy(update={"extra": {**report.extra, "node": node}})


class OnNodeFactory(ToyFactory):
    def __call__(self, candidate: Candidate, seed: int) -> OnNode:
        super().__call__(candidate, seed)
        return OnNode(candidate, seed, self.pause)


class Saboteur(Recorder):
    """Removes a node that trains, once every node has."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self.cluster = cluster
        self.reports: dict[int, list[tuple[int, float]]] = {}
        self.removed = 0.0

    def trial_reported(self, trial: Trial, report: Report) -> None:
        super().trial_reported(trial, report)
        self.reports.setdefault(trial.number, []).append((report.samples, report.extra["node"]))
        here = ray.get_runtime_context().get_node_id()
        far = [node for node in self.cluster.worker_nodes if node.unique_id != here]
        seen = {node for reports in self.reports.values() for _, node in reports}
        if not self.removed and len(seen) == 3 and report.samples < RUNGS.samples[-1]:
            victim = next((one for one in far if int(one.node_id[:10], 16) == report.extra["node"]), None)
            if victim is not None:
                self.removed = report.extra["node"]
                self.cluster.remove_node(victim, allow_graceful=False)


def started_cluster(tries: int = 5) -> Cluster:
    """Start a cluster; Ray gives each node 30 s, which a busy machine may not keep."""
    made = Cluster()
    try:
        made.add_node(num_cpus=1, include_dashboard=False, no_monitor=True, **few_processes())
        for _ in range(2):
            made.add_node(num_cpus=1, **few_processes())
    except Exception:
        made.shutdown()
        if tries == 1:
            raise
        return started_cluster(tries - 1)
    return made


def few_processes() -> dict[str, object]:
    """Return settings with which nobody waits for a node's agents: that of the ports they will have."""
    names = ("metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    return {"include_log_monitor": False, **{name: free_port() for name in names}}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Three nodes with a CPU each, which can import what the driver can; the driver joins the first."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("RAY_worker_register_timeout_seconds", "300")
    made = started_cluster()
    yield made
    made.shutdown()


def test_a_search_uses_every_node_and_outlives_the_death_of_one(
    cluster: Cluster, make_search: Callable[..., Search], store: StudyStore, tmp_path: Path
) -> None:
    assert count_nodes(cluster.address) == 3
    observer = Saboteur(cluster)
    search = make_search(rungs=RUNGS, max_trials=9, observers=[observer])
    factory = OnNodeFactory(tmp_path / "made.txt", pause=0.05)
    where = {"folder": tmp_path, "address": cluster.address}
    with pytest.raises(InputError, match=r"every node must have /nowhere/model .*, but node .* has not"):
        run_on_ray(
            search,
            factory,
            seed=1,
            concurrent=2,
            threads_per_trial=1,
            needed=[Path("/nowhere/model")],
            **where,
        )
    with pytest.raises(InputError, match=r"must have 8 CPUs, 0 GPUs for a trial, but they have: 1 CPUs, 0"):
        run_on_ray(search, factory, seed=1, concurrent=2, threads_per_trial=8, **where)
    run_on_ray(search, factory, seed=1, concurrent=2, threads_per_trial=1, needed=[tmp_path], **where)

    trials = store.load().trials
    assert observer.removed
    assert len(trials) == 9
    assert {trial.state for trial in trials} <= {"complete", "stopped"}
    results = [trial.result for trial in trials if trial.result is not None]
    assert len({report.extra["node"] for result in results for report in result.reports}) == 3
    for result in results:
        seen = [report.samples for report in result.reports]
        assert seen == list(RUNGS.samples[: len(seen)])  # nothing is recorded twice
    best = store.load().best
    assert best is not None
    assert (checkpoint_folder(tmp_path, best.number) / "state.json").is_file()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "must be started on a machine of its cluster"),
        ("head", "must be auto or HOST:PORT, but got 'head'"),
        ("127.0.0.1:9", "no Ray cluster answers at 127.0.0.1:9"),
    ],
)
def test_an_address_where_no_cluster_can_be_joined_is_said_at_once(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        count_nodes(address)
    assert "\n" not in str(error.value)
