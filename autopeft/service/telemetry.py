"""Telemetry: what Prometheus reads, and the log as lines of JSON. Neither holds a secret."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_EXTRA = ("request_id", "user", "method", "path", "status", "seconds", "job", "state", "client")
_SECRET = re.compile(
    r"(autopeft_[0-9a-f]{12}_)[A-Za-z0-9_-]+"
    r"|(://[^/\s:@]*:)[^@\s\"]{1,256}(?=@)"
    r"|(?i:(bearer ))\S+"
)


class Metrics:
    """The measurements of one service process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self._registry}
        self.requests = Counter(
            "autopeft_requests", "Requests answered.", ("method", "route", "status"), **kept
        )
        self.seconds = Histogram(
            "autopeft_request_seconds", "Time to an answer.", ("route",), buckets=_BUCKETS, **kept
        )
        self.answers = Counter(
            "autopeft_answers", "Answers by where they came from: memory or computed.", ("source",), **kept
        )
        self.jobs = Gauge("autopeft_jobs", "Jobs of all service processes, by state.", ("state",), **kept)
        self.ended = Counter("autopeft_jobs_ended", "Jobs that ended here, by state.", ("state",), **kept)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; what looks like a token or a password is taken out."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in _EXTRA if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return without_secrets(json.dumps(line, default=str))  # ASCII: nothing in it moves a terminal


def without_secrets(text: str) -> str:
    """Return a text without tokens, and without the passwords of URLs."""
    return _SECRET.sub(lambda found: f"{found[1] or found[2] or found[3] or ''}***", text)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Write this process's log as lines of JSON on stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("autopeft", "uvicorn"):
        logging.getLogger(name).setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True  # the gate writes its own, without queries
