"""Several service processes on one workspace: what two of them do at the same moment."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from autopeft.service.settings import Settings
from autopeft.service.tokens import Caller
from autopeft.service.uploads import Uploads
from tests.service.test_training import ROWS

ANN = Caller(user="ann", scope="submit")
ROUNDS = 60
FACTS = {
    "name": "x", "task": "classification", "rows": {}, "labels": (), "columns": {}, "source": "x",
    "fingerprint": "0", "notes": (),
}  # fmt: skip
SCRIPT = """
import asyncio, contextlib, json, sys, time
from pathlib import Path
from autopeft.report.facts import DataFacts
from autopeft.service import uploads
from autopeft.service.problems import RefusedError
from autopeft.service.settings import Settings
from autopeft.service.tokens import Caller
from autopeft.workload.tasks import TASKS

workspace, name, rounds, deletes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
facts = DataFacts(metric=TASKS["classification"].metric, **json.loads(sys.argv[5]))
uploads._read = lambda *_: facts
kept, who = uploads.Uploads(Settings(workspace=workspace)), Caller(user="ann", scope="submit")
rows = Path(workspace / "rows").read_bytes()

async def parts():
    yield rows

print("ready", flush=True)
sys.stdin.readline()
for number in range(rounds):
    rows += b"." * (not deletes)
    made = kept.keep(who, asyncio.run(kept.take(who, f"{name}.csv", parts())), {})
    if deletes:
        with contextlib.suppress(RefusedError):
            kept.delete(who, made.id)
    else:
        place = kept.path(who, made.id)
        assert place.read_bytes() == rows
        print(made.id, place.name, flush=True)
"""


@pytest.mark.parametrize("deletes", [False, True])
def test_two_processes_that_keep_the_same_upload_at_once_agree(tmp_path: Path, deletes) -> None:
    workspace = tmp_path / "ws"
    workspace.mkdir()
    (workspace / "rows").write_bytes(ROWS)
    rest = [str(ROUNDS), str(int(deletes)), json.dumps(FACTS)]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(workspace), name, *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "other")
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=100)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    found = Uploads(Settings(workspace=workspace)).list(ANN)
    assert not list((workspace / "uploads").glob("*/.draft-*"))
    if deletes:
        assert len(found) <= 1
        return
    wanted = {hashlib.sha256(ROWS + b"." * more + b".csv").hexdigest()[:24] for more in range(1, ROUNDS + 1)}
    assert told[0] == told[1]
    assert {each.id for each in found} == wanted


def test_a_damaged_upload_is_replaced_by_the_next(tmp_path: Path, monkeypatch) -> None:
    from tests.service.test_training import FACTS as READ

    monkeypatch.setattr("autopeft.service.uploads._read", lambda *_: READ)
    uploads = Uploads(Settings(workspace=tmp_path / "ws"))

    def keep() -> Path:
        draft = uploads._home(ANN) / ".draft-1"
        draft.mkdir(parents=True)
        (draft / "rows.csv").write_bytes(ROWS)
        return uploads.path(ANN, uploads.keep(ANN, draft / "rows.csv", {}).id)

    place = keep()
    (place.parent / ".upload.json").write_text("{")
    assert uploads.list(ANN) == ()
    assert keep() == place
    assert place.read_bytes() == ROWS
