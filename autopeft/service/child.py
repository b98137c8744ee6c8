"""The process of one job: the pipeline, nothing else. `runner` starts it and holds its stdin.

An export or the conclusion of a study is a job, too. What came of a job, or why nothing did, goes to its log
and, as the disk of the log may be full, as one line to the stdout that it was started with.

Exit status: 0 done, 1 nothing fits, 2 it cannot be done (one line on stderr), 75 another process
runs its study, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from autopeft import handover, pipeline
from autopeft.errors import AutopeftError, ClaimedError, DoesNotFitError
from autopeft.export.bundle import Export
from autopeft.journey.keeping import going_on
from autopeft.request import Request
from autopeft.search.study import Study
from autopeft.service.watching import EventObserver

END_SECONDS = 30.0
_NOTHING = "no trial came to its end within the budget: there is no adapter"
MOST_SAID = 4000
"""Bytes; a pipe takes them at once, whoever reads it."""


def main() -> int:
    """Do one job; arguments: its kind, a file with the request, that of events, seconds spent.

    Beside the request of an export lies `export.json`, which says what of its study.
    """
    kind, file, events, spent = sys.argv[1:]
    # A service that a script started in the background inherited, and passed on, that it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    service = os.dup(1)
    os.dup2(2, 1)  # libraries may write what they like
    threading.Thread(target=_end_with_the_service, daemon=True, name="lifeline").start()
    for library in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    observer = EventObserver(Path(events))
    try:
        request = Request.read(Path(file))
        if kind == "export":
            observer.progress("exporting", 0, 1)
            handover.export(request, Export.read(Path(file).with_name("export.json")))
        elif kind == "conclude":
            observer.progress("concluding", 0, 1)
            handover.conclude(request)
        elif kind == "run":
            facts = pipeline.run(going_on(request, float(spent)), [observer], observer.progress)
            _say(_NOTHING if facts.study.best is None else facts.decision, service)
        else:
            study = pipeline.search(going_on(request, float(spent)), [observer], observer.progress)
            _say(_found(study), service)
    except KeyboardInterrupt:
        return 130
    except AutopeftError as error:
        _say(" ".join(str(error).split()), service)
        if isinstance(error, ClaimedError):
            return os.EX_TEMPFAIL
        return 1 if isinstance(error, DoesNotFitError) else 2
    except OSError as error:
        _say(f"{error.filename or 'the system'}: {error.strerror}", service)
        return 2
    return 0


def _found(study: Study) -> str:
    """Return what came of a search."""
    best = study.best
    if best is None or best.result is None:
        return _NOTHING
    return f"{best.label}: {study.metric.name} {best.result.score:.3f} on the validation rows"


def _say(line: str, service: int) -> None:
    for stream, text in ((service, line), (2, f"\n{line}\n")):
        with contextlib.suppress(OSError):
            os.write(stream, text.encode()[:MOST_SAID])


def _end_with_the_service() -> None:
    """Wait until the service closes stdin, which its death does, too; then end as Ctrl-C would."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(END_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    status = main()
    gc.freeze()  # the interpreter's end would look for garbage among all of torch for seconds
    sys.exit(status)
