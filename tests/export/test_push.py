"""A bundle goes to the Hub through its own client; a small server stands in for the Hub's API."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from autopeft.export.bundle import Bundle
from autopeft.export.opening import checksums, open_bundle
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report, TrialResult
from autopeft.workload.tasks import ACCURACY

REPORT = Report(
    samples=10, step=2, loss=0.5, score=0.4, seconds=1.0, step_seconds=0.1, peak_bytes=10**6, extra={}
)
PUSH = """
import sys
from pathlib import Path
from autopeft.errors import AutopeftError
from autopeft.export.push import push
try:
    print(push(Path(sys.argv[1]), "me/mine", "org/tiny-bert"))
except AutopeftError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class Hub(ThreadingHTTPServer):
    """What of the Hub's API an upload of small files needs: a repository, and what was committed to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: list[str] = []
        self.files: dict[str, bytes] = {}
        self.summary = ""
        self.refuses = ""


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("authorization") != "Bearer secret":
            self._answer(401, {"error": "Invalid username or password."})
        elif self.server.refuses and self.server.refuses in self.path:
            self._answer(403, {"error": "You have no rights here."})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            self.server.repositories.append(f"{asked['organization']}/{asked['name']}")
            self._answer(200, {"url": f"{self.server.url}/{self.server.repositories[-1]}"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"warnings": [], "errors": []})
        elif re.fullmatch(r"/api/models/me/mine/preupload/main", self.path):
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for each in json.loads(body)["files"]]  # fmt: skip
            self._answer(200, {"files": files})
        elif re.fullmatch(r"/api/models/me/mine/commit/main", self.path):
            for line in body.splitlines():
                said: dict[str, Any] = json.loads(line)
                if said["key"] == "header":
                    self.server.summary = said["value"]["summary"]
                else:
                    file = said["value"]
                    self.server.files[file["path"]] = base64.b64decode(file["content"])
            self._answer(200, {"commitUrl": f"{self.server.url}/me/mine/commit/0", "commitOid": "0" * 40})
        else:
            self._answer(404, {"error": self.path})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name in the library)
        del format, args


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose base is a directory of this disk."""
    base, place = tmp_path / "base", tmp_path / "bundle"
    base.mkdir()
    place.mkdir()
    (place / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (place / "adapter_model.safetensors").write_bytes(bytes(range(256)))
    made = Bundle(
        path=str(place),
        format="peft",
        model=str(base),
        base=str(base),
        task="classification",
        head="AutoModelForSequenceClassification",
        labels=("bad", "good"),
        candidate=Candidate(method="lora"),
        budget=Budget(),
        predicted=None,
        measured=TrialResult(state="complete", reports=(REPORT,)),
        metric=ACCURACY,
        test_score=0.8,
        low=0.7,
        high=0.9,
        data=str(tmp_path / "rows.csv"),
        data_fingerprint="0" * 64,
        seed=0,
        study="study",
        trial=0,
        versions={},
    )
    (place / "README.md").write_text("as exported")
    made.model_copy(update={"files": checksums(place)}).keep(place / "autopeft.json")
    return place


def push(bundle: Path, endpoint: str, *, token: str | None = "secret") -> subprocess.CompletedProcess[str]:
    """Push in a process of its own, as the Hub's client reads its endpoint when it is imported."""
    hidden = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(bundle.parent / "hf"),
                    "NO_PROXY": "127.0.0.1", **({"HF_TOKEN": token} if token else {})}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(bundle)],
        capture_output=True, text=True, check=False, env=environment, timeout=120,
    )  # fmt: skip


def test_what_is_uploaded_is_the_public_bundle_whole(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    (bundle / "Modelfile").write_text("FROM .")  # as the card says for Ollama
    done = push(bundle, hub.url)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == f"{hub.url}/me/mine"
    assert hub.repositories == ["me/mine"]
    assert hub.summary == "Exported by autopeft"
    there = tmp_path / "there"
    there.mkdir()
    for name, content in hub.files.items():
        (there / name).write_bytes(content)
    assert set(open_bundle(there).files) | {"autopeft.json"} == {each.name for each in bundle.iterdir()}
    assert hub.files["adapter_model.safetensors"] == bytes(range(256))
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "org/tiny-bert"
    assert not [name for name, content in hub.files.items() if str(tmp_path).encode() in content]


@pytest.mark.parametrize("where", ["repos/create", "commit"])
def test_what_the_hub_refuses_is_one_line(hub: Hub, bundle: Path, where: str) -> None:
    hub.refuses = where
    done = push(bundle, hub.url)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("StorageError: me/mine cannot be written on the Hub: ")
    assert "403" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert hub.files == {}


def test_without_a_token_it_says_how_to_get_one(hub: Hub, bundle: Path) -> None:
    done = push(bundle, hub.url, token=None)
    assert done.stderr.splitlines()[-1] == (
        "StorageError: pushing needs a valid token of the Hub: `hf auth login`, or set HF_TOKEN."
    )


def test_a_hub_that_is_not_there_is_one_line(bundle: Path) -> None:
    done = push(bundle, "http://127.0.0.1:9")
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("StorageError: me/mine cannot be written on the Hub: ")
