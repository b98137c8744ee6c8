"""Injects faults into real searches, resumes them, and compares the end with an undisturbed run's.

    python experiments/015-faults/run.py [--only PART ...] [--seed N]

Parts that are in results.json are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import freeze_thaw
import psutil
from looking import differences, load, recorded, trained, trained_again

from autopeft.search.desk import checkpoint_folder

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
KILLS = ("worker",) * 12 + ("driver",) * 4 + ("raylet",) * 2 + ("gcs_server",) * 2
"""The object store lives in the raylet's process."""
KILLS_OF_FREEZE_THAW = ("worker",) * 10 + ("driver",) * 10
PATIENCE_SECONDS = 600.0


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the search of a folder, or go on with it."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "driver.py"), str(folder), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(driver: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Wait for a driver; return its status and what it said."""
    try:
        said = driver.communicate(timeout=PATIENCE_SECONDS)[1]
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        said = driver.communicate()[1] + f"killed after {PATIENCE_SECONDS:g} s without an end"
    return driver.returncode, said.strip().splitlines()


def verdict(folder: Path, reference: dict[str, Any]) -> dict[str, Any]:
    """Compare a study's end with the undisturbed run's."""
    study = load(folder)
    assert study is not None
    best, trials = study.best, recorded(study, folder)
    curves = {trial["rank"]: trial["curve"] for trial in trials.values()}
    known = {int(rank): curve for rank, curve in reference["curves"].items()}
    same = all(
        mine == theirs
        for rank, curve in curves.items()
        for mine, theirs in zip(curve, known.get(rank, []), strict=False)
    )
    checkpoint = checkpoint_folder(folder, best.number) / "state.json" if best else None
    ranks = [trial["rank"] for trial in trials.values()]
    return {
        "trials": len(trials),
        "states": sorted(trial["state"] for trial in trials.values()),
        "all_accounted_for": sorted(ranks) == sorted(known) and all(one.finished for one in study.trials),
        "none_repeated": len(set(ranks)) == len(ranks),
        "evaluations_equal": same,
        "best_rank": best.candidate.rank if best else None,
        "best_score": best.result.score if best and best.result else None,
        "winner_equal": bool(best and best.result)
        and [best.candidate.rank, best.result.score] == [reference["best_rank"], reference["best_score"]],
        "winner_has_checkpoint": bool(checkpoint and checkpoint.is_file()),
    }


def undisturbed(folder: Path) -> dict[str, Any]:
    """Search once without faults; the other parts are compared with this."""
    began = time.monotonic()
    status, said = finish(start(folder, "sound"))
    study = load(folder)
    assert study is not None
    assert study.best is not None
    assert study.best.result is not None
    trials = recorded(study, folder)
    return {
        "status": status,
        "said": said,
        "seconds": round(time.monotonic() - began, 1),
        "best_rank": study.best.candidate.rank,
        "best_score": study.best.result.score,
        "curves": {str(trial["rank"]): trial["curve"] for trial in trials.values()},
        "states": sorted(trial["state"] for trial in trials.values()),
    }


def freeze_thaw_undisturbed(folder: Path) -> dict[str, Any]:
    """Search once with freeze-thaw and without faults."""
    began = time.monotonic()
    status, said = finish(start(folder, "space"))
    return {
        "status": status,
        "said": said,
        "seconds": round(time.monotonic() - began, 1),
        **freeze_thaw.describe(folder),
    }


def victim(driver: subprocess.Popen[str], kind: str, folder: Path) -> psutil.Process | None:
    """Find the process to kill: of several that train, the one that began last; Ray's own while one does."""
    if kind == "driver":
        return psutil.Process(driver.pid)
    try:
        below = {child.pid: child for child in psutil.Process(driver.pid).children(recursive=True)}
    except psutil.NoSuchProcess:
        return None
    log = folder / "made.txt"
    made = [int(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []
    trains = next((below[pid] for pid in reversed(made) if pid in below), None)
    if kind == "worker" or trains is None:
        return trains
    return next((child for child in below.values() if child.name() == kind), None)


def kills(
    folder: Path, candidates: str, kinds: tuple[str, ...], seed: int, gap_seconds: float = 6.0
) -> dict[str, Any]:
    """Kill -9 processes at random moments, going on with the search after each driver's death.

    Args:
        gap_seconds: most that passes from when there is one to kill until it is killed.
    """
    dice, began = random.Random(seed), time.monotonic()
    todo = list(kinds)
    dice.shuffle(todo)
    arguments = (candidates, "--pause", "0.5")
    driver, sessions, wrong, done = start(folder, *arguments), 1, list[str](), list[dict[str, Any]]()
    ends: list[dict[str, Any]] = []
    before: dict[int, dict[str, Any]] = {}
    pieces = 0
    while True:
        ended = driver.poll() is not None
        if ended:
            status, said = finish(driver)
            ends.append({"status": status, "said": said[-3:]})
            now = recorded(load(folder), folder)
            wrong += differences(before, now) + trained_again(before, trained(folder)[pieces:])
            before, pieces = now, len(trained(folder))
            if status == 0 or sessions > len(kinds) + 5:
                break
            driver, sessions = start(folder, *arguments), sessions + 1
        elif todo and (target := victim(driver, todo[0], folder)) is not None:
            time.sleep(dice.uniform(0, gap_seconds))
            now = recorded(load(folder), folder)
            wrong += differences(before, now) + trained_again(before, trained(folder)[pieces:])
            before, pieces = now, len(trained(folder))
            kind = todo.pop(0)
            try:
                target.kill()
            except psutil.NoSuchProcess:
                todo.insert(0, kind)
                continue
            done.append({"killed": kind, "at": round(time.monotonic() - began, 1)})
            if kind in ("raylet", "gcs_server"):  # what the driver does then is for it to decide, in time
                try:
                    driver.wait(timeout=PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    wrong.append(f"the driver hung after {kind} was killed")
                    os.killpg(driver.pid, signal.SIGKILL)
            else:
                time.sleep(2)
        else:
            time.sleep(0.2)
    return {
        "kills": done,
        "not_killed": todo,
        "sessions": sessions,
        "ends": ends,
        "lost_or_changed": wrong,
        "seconds": round(time.monotonic() - began, 1),
    }


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system in memory of so many bytes (needs root)."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(folder: Path, reference: dict[str, Any]) -> dict[str, Any]:
    """Let the study's disk run full, make room, and go on."""
    place = folder / "disk"
    with small_disk(place, "3m"):
        status, said = finish(start(place, "sound", "--kilobytes", "400"))
        before = recorded(load(place), place)
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        again, said_again = finish(start(place, "sound", "--kilobytes", "400"))
        after = recorded(load(place), place)
        return {
            "status": status,
            "said": said,
            "finished_before": sum(one["state"] != "running" for one in before.values()),
            "status_after_room_was_made": again,
            "said_again": said_again,
            "lost_or_changed": differences(before, after),
            **verdict(place, reference),
        }


def ill(folder: Path) -> dict[str, Any]:
    """Search among candidates that hang, stop their own process, raise for a loss that is NaN, score NaN."""
    began = time.monotonic()
    status, said = finish(start(folder, "faulty", "--hang-seconds", "45"))
    study = load(folder)
    assert study is not None
    return {
        "status": status,
        "said": said,
        "seconds": round(time.monotonic() - began, 1),
        "trials": {
            trial.candidate.method + f" {trial.candidate.rank}": [trial.state, trial.reason]
            for trial in study.trials
        },
        "best_rank": study.best.candidate.rank if study.best else None,
    }


def mlflow_gone(folder: Path, reference: dict[str, Any]) -> dict[str, Any]:
    """Search with an MLflow server that is not there: the search goes on, and all is kept for later."""
    status, said = finish(start(folder, "sound", "--mlflow", "http://127.0.0.1:9"))
    spool = folder / "mlflow-spool.jsonl"
    events = spool.read_text().splitlines() if spool.exists() else []
    return {"status": status, "said": said, "events_kept": len(events), **verdict(folder, reference)}


def main() -> None:
    """Run the parts that are missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=15)
    given = parser.parse_args()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    parts = {
        "undisturbed": undisturbed,
        "ill_trials": ill,
        "full_disk": lambda folder: full_disk(folder, results["undisturbed"]),
        "mlflow_gone": lambda folder: mlflow_gone(folder, results["undisturbed"]),
        "kills": lambda folder: (
            kills(folder, "sound", KILLS, given.seed) | verdict(folder, results["undisturbed"])
        ),
        "freeze_thaw": freeze_thaw_undisturbed,
        "freeze_thaw_kills": lambda folder: (
            kills(folder, "space", KILLS_OF_FREEZE_THAW, given.seed, gap_seconds=24.0)
            | freeze_thaw.compare(folder, results["freeze_thaw"])
        ),
    }
    for name, part in parts.items():
        if name in results or (given.only and name not in given.only):
            continue
        with tempfile.TemporaryDirectory(prefix="autopeft-faults-", ignore_cleanup_errors=True) as place:
            results[name] = part(Path(place))
        results["made"] = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load_when_done": round(os.getloadavg()[0], 1),
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        shown = {key: value for key, value in results[name].items() if key not in ("curves", "kills", "ends")}
        print(name, json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
