"""Runner: takes jobs from the queue and runs each as a process of its own, as long as the service lives."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
from pydantic import ValidationError

from autopeft.errors import AutopeftError
from autopeft.files import make_folder
from autopeft.job import OF_A_STUDY
from autopeft.request import Request
from autopeft.service.names import Names
from autopeft.service.placeless import placeless
from autopeft.service.telemetry import without_secrets
from autopeft.service.tokens import Caller
from autopeft.units import format_seconds

if TYPE_CHECKING:
    from autopeft.job import Job, State
    from autopeft.service.jobs import Jobs
    from autopeft.service.settings import Settings
    from autopeft.service.telemetry import Metrics
    from autopeft.service.uploads import Uploads

_log = logging.getLogger(__name__)
POLL_SECONDS = 0.5
STOP_SECONDS = 45.0
"""A job that is told to stop gets so long to end its training; then it is killed."""
CLAIMED_SECONDS = 5.0
"""A job whose study another process still runs waits so long before it is put back into the queue."""
_READ_BYTES = 1 << 20
"""So much of a job's events is put into the database at once."""
_NOTHING_FITS, _REFUSED, _INTERRUPTED = 1, 2, 130
Cause = Literal["stopped", "overdue", "closing", "lost"]


class Runner:
    """Runs jobs, `slots` at a time."""

    def __init__(self, jobs: Jobs, uploads: Uploads, settings: Settings, metrics: Metrics) -> None:
        self._jobs, self._settings, self._metrics = jobs, settings, metrics
        self._uploads = uploads
        self.owner = f"{socket.gethostname()[:60]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._closing = threading.Event()
        self._runs: list[threading.Thread] = []
        self._taker = threading.Thread(target=self._take, name="taker", daemon=True)

    def start(self) -> None:
        """Begin to take jobs."""
        if self._settings.slots:
            self._taker.start()

    @property
    def takes_jobs(self) -> bool:
        """Whether it still does what `start` began."""
        return self._taker.ident is None or self._taker.is_alive()

    def close(self) -> None:
        """End what runs; it waits in the queue again, for this service's next start or another's turn."""
        self._closing.set()
        for thread in [self._taker, *self._runs]:
            if thread.is_alive():
                thread.join(STOP_SECONDS + 15)

    def _take(self) -> None:
        while not self._closing.is_set():
            took = False
            try:
                took = self._take_one()
            except AutopeftError as error:
                _log.error("no job can be taken: %s", error)
            except Exception:  # noqa: BLE001 (whatever it was, the jobs of the others are still to be taken)
                _log.exception("no job can be taken")
            if not took:
                self._closing.wait(POLL_SECONDS)

    def _take_one(self) -> bool:
        """Begin the job whose turn it is; say whether there was one."""
        self._runs = [thread for thread in self._runs if thread.is_alive()]
        if len(self._runs) >= self._settings.slots:
            return False
        job = self._jobs.claim(self.owner)
        if job is None:
            return False
        run = threading.Thread(target=self._run, args=(job,), name=f"job {job.id}", daemon=True)
        try:
            run.start()
        except RuntimeError:  # the machine has no thread left
            self._finish(job, "queued", "", job.spent)
            raise
        self._runs.append(run)
        return True

    def _run(self, job: Job) -> None:
        _log.info("job begins", extra={"job": job.id, "user": job.user, "state": "running"})
        spent = job.spent
        try:
            run = _Run(job, self._jobs, self._uploads, self._settings, self.owner, self._closing)
            try:
                state, reason = run.to_the_end()
            finally:
                spent = run.spent
        except Exception:  # noqa: BLE001 (a job whose end nobody writes would be running for ever)
            _log.exception("a job cannot be watched", extra={"job": job.id})
            state, reason = "failed", "the service has a bug, which its log names by this job's id; resume it"
        self._finish(job, state, reason, spent)

    def _finish(self, job: Job, state: State, reason: str, spent: float) -> None:
        """Write how a job ended, as soon as the database lets us, as long as the job is ours."""
        while True:
            try:
                ours = self._jobs.finish(job.id, self.owner, state, reason, spent)
            except Exception as error:  # noqa: BLE001 (nobody else writes it)
                _log.error("the end of a job cannot be written yet: %s", error, extra={"job": job.id})
                if self._closing.wait(POLL_SECONDS):
                    return  # its lease runs out, and the next to take it finds the study as it is
                continue
            if ours and state != "queued":
                self._metrics.ended.labels(state).inc()
            _log.info("job ends", extra={"job": job.id, "user": job.user, "state": state})
            return


class _Run:
    """One attempt at a job: its process, watched."""

    def __init__(
        self,
        job: Job,
        jobs: Jobs,
        uploads: Uploads,
        settings: Settings,
        owner: str,
        closing: threading.Event,
    ) -> None:
        self._job, self._jobs, self._uploads, self._settings = job, jobs, uploads, settings
        self._owner, self._closing = owner, closing
        self._began = self._renewed = time.monotonic()
        self._folder = Path(settings.workspace).resolve() / "jobs" / job.id
        self._events = self._folder / f"events-{job.attempts}-{owner[-8:]}.jsonl"
        # A job that is resumed counts its attempts anew: what an earlier one wrote was told then.
        self._read = self._events.stat().st_size if self._events.exists() else 0

    @property
    def spent(self) -> float:
        """Seconds that the job has taken, over all attempts."""
        return self._job.spent + time.monotonic() - self._began

    def to_the_end(self) -> tuple[State, str]:
        """Run until the process has ended; return the job's state, and the reason for it."""
        try:
            process, log = self._start()
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            faults = self._placeless(faults)[:800]
            return "failed", f"it cannot be begun, this version does not take its request: {faults}"
        except (AutopeftError, OSError) as error:
            return "failed", self._placeless(f"it cannot be begun: {error}")
        cause: Cause | None = None
        try:
            while process.poll() is None and cause is None:
                time.sleep(POLL_SECONDS)
                cause = self._look()
            if cause is not None:
                _end(process, 0.0 if cause == "lost" else STOP_SECONDS)
        finally:
            if process.returncode is None:  # a bug of the watching: nobody else would end it
                _end(process, STOP_SECONDS)
            with contextlib.suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()
        while self._tell():
            pass
        return self._verdict(process.returncode, cause, _last_word(process), log)

    def _start(self) -> tuple[subprocess.Popen[bytes], Path]:
        make_folder(self._folder)
        file = self._folder / "request.json"
        if self._job.kind == "export":
            self._job.order.wanted.keep(self._folder / "export.json")
        wish = Request() if self._job.kind in OF_A_STUDY else self._with_files(self._job.wish)
        self._placed(wish, self._job.study).keep(file)
        log = self._folder / "log.txt"
        arguments = [self._job.kind, str(file), str(self._events), str(self._job.spent)]
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "autopeft.service.child", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,  # for its last word, see `child`
                stderr=stream,
                cwd=self._folder,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "TOKENIZERS_PARALLELISM": "false",
                    "TRANSFORMERS_VERBOSITY": "error",
                    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                },
                start_new_session=True,
            )
        return process, log

    def _with_files(self, wish: Request) -> Request:
        """Return a request with its user's files, and the service's model, by where they lie."""
        files = {"data": wish.data, "test_data": wish.test_data}
        who = Caller(user=self._job.user, scope="submit")
        found = {name: str(self._uploads.path(who, number)) for name, number in files.items() if number}
        if wish.model is not None:
            found["model"] = Names(self._settings).model(wish.model)
        return wish.model_copy(update=found)

    def _placed(self, wish: Request, study: str) -> Request:
        """Return a request with where the service keeps and runs things."""
        places = {
            "study": study,
            "workspace": str(Path(self._settings.workspace).resolve()),
            "address": self._settings.address,
            "mlflow": self._settings.mlflow,
            # The workspace's studies are of all users.
            "experience": "shipped" if wish.experience == "all" else wish.experience,
        }
        return wish.model_copy(update=places)

    def _look(self) -> Cause | None:
        """Pass events on, renew the lease, and say whether the process has to end."""
        self._tell()
        if self._closing.is_set():
            return "closing"
        if self.spent > self._job.seconds + self._settings.grace_seconds:
            return "overdue"
        now, lease = time.monotonic(), self._settings.lease_seconds
        try:
            said = self._jobs.renew(self._job.id, self._owner, self.spent)
        except AutopeftError as error:
            _log.warning("a lease cannot be renewed: %s", error, extra={"job": self._job.id})
            return "lost" if now - self._renewed > 0.8 * lease else None  # before another takes it
        self._renewed = now
        causes: dict[str, Cause | None] = {"go": None, "stop": "stopped", "lost": "lost"}
        return causes[said]

    def _tell(self) -> bool:
        """Put new events of the process into the database; what cannot be put now is put later.

        Returns:
            whether there may be more.
        """
        try:
            with self._events.open("rb") as stream:
                stream.seek(self._read)
                data = stream.read(_READ_BYTES)
        except OSError:
            return False
        *lines, rest = data.split(b"\n")
        if not lines:
            return False
        try:
            told = [line.decode("utf-8", "replace") for line in lines if line]
            self._jobs.note(self._job.id, [self._placeless(each) for each in told])
        except AutopeftError as error:
            _log.warning("events cannot be written: %s", error, extra={"job": self._job.id})
            return False
        self._read += len(data) - len(rest)
        return len(data) == _READ_BYTES

    def _verdict(self, code: int, cause: Cause | None, word: str, log: Path) -> tuple[State, str]:
        said = self._placeless(without_secrets(word)[:1000])
        if code == 0 and cause != "lost":  # it came to its end while it was told to stop
            return "done", said
        if cause in ("closing", "lost"):
            return "queued", ""
        if cause == "stopped":
            return "stopped", "stopped by its user; finished trials are kept"
        if cause == "overdue":
            limit = format_seconds(self._job.seconds)
            return (
                "failed",
                f"it took longer than its {limit} and what is granted beyond; finished trials are kept",
            )
        if code == os.EX_TEMPFAIL:  # another process runs the study, perhaps one that is about to end
            self._closing.wait(CLAIMED_SECONDS)
            return "queued", ""
        if word and code in (_NOTHING_FITS, _REFUSED):
            return "failed", said
        said = said or self._placeless(without_secrets(_last_line(log))[:1000])
        if code == _INTERRUPTED:
            return "stopped", "interrupted; finished trials are kept"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return "failed", f"its process {how}; resume it to go on ({said})"

    def _placeless(self, text: str) -> str:
        return placeless(text, self._settings)


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Interrupt a process, and kill it with all it started where it does not end in time."""
    below = _family(process.pid)
    if seconds:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    below = {*below, *_family(process.pid)}
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    for each in below:
        with contextlib.suppress(psutil.Error):
            each.kill()
    process.wait()


def _family(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return set()


def _last_word(process: subprocess.Popen[bytes]) -> str:
    """Return why a process says that it ended; empty where it did not say so."""
    if process.stdout is None:
        return ""
    with contextlib.suppress(OSError), process.stdout as stream:
        os.set_blocking(stream.fileno(), False)  # whoever it left behind may hold the other end
        return os.read(stream.fileno(), 1 << 16).decode("utf-8", "replace")
    return ""


def _last_line(log: Path) -> str:
    """Return the last line that a process wrote."""
    with contextlib.suppress(OSError):
        with log.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - 4000))
            lines = stream.read().decode("utf-8", "replace").split("\n")
        words = [line.strip() for line in lines if line.strip()]
        return words[-1] if words else "it said nothing"
    return "it said nothing"
