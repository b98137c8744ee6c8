"""Settings of a service: where it listens, what it keeps, and how much of anything it grants."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from autopeft.message import Message
from autopeft.plan.budget import Bytes, Seconds
from autopeft.units import GIB, MIB

PORT = 8321
JSON_BYTES = MIB
"""Largest body of a request that is no upload."""
EXPORT_SECONDS = 3600.0
"""Time that an export or a conclusion may take, where the service grants a job that much."""


class Settings(Message):
    """What `autopeft serve` was told.

    Attributes:
        workspace: studies, uploads and, unless `database` names another, the service's own database.
        database: URL of the database of jobs and tokens; None is a file in the workspace.
        names: other names that the service is called by, for the Host header.
        tokens: ask for a token even on a loopback address; any other address or name always needs one.
        slots: jobs that this process runs side by side.
        quota: jobs of one user that wait or run.
        longest_seconds: most time that a job may ask for.
        grace_seconds: time that a job may take beyond its own, for test scores, export and report.
        upload_bytes: of one file.   kept_bytes: of all files of one user.
        rate: requests a second of one user, `burst` of them at once; 0 is no limit.
        hub: models may be fetched from the hub, not only be those of the catalogue.
        models: directories whose models may be named, by path or name.
        cert, key: files of TLS.
        address: Ray cluster to train on.   mlflow: tracking server.
        lease_seconds: a job whose process is silent for so long is taken over by another.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=PORT, ge=0, le=65535)
    workspace: Path = Path(".autopeft")
    database: str | None = None
    names: tuple[str, ...] = ()
    tokens: bool = False
    slots: int = Field(default=1, ge=0, le=64)
    quota: int = Field(default=20, ge=1)
    longest_seconds: Seconds = 24 * 3600.0
    grace_seconds: Seconds = 900.0
    upload_bytes: Bytes = 256 * MIB
    kept_bytes: Bytes = 2 * GIB
    rate: float = Field(default=50.0, ge=0, allow_inf_nan=False)
    burst: int = Field(default=200, ge=1)
    hub: bool = False
    models: tuple[Path, ...] = ()
    cert: Path | None = None
    key: Path | None = None
    address: str | None = None
    mlflow: str | None = None
    lease_seconds: float = Field(default=30.0, ge=1)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("TLS needs a certificate and its key: give both --tls-cert and --tls-key")
        return self

    @property
    def needs_tokens(self) -> bool:
        """Whether every request has to bring a token."""
        return self.tokens or self.is_open

    @property
    def is_open(self) -> bool:
        """Whether others can reach it: by its address, or by a name, which a proxy in front of it serves."""
        return not all(is_loopback(name) for name in (self.host, *self.names))

    @property
    def export_seconds(self) -> float:
        """How long an export or a conclusion may take."""
        return min(EXPORT_SECONDS, self.longest_seconds)

    @property
    def url(self) -> str:
        """Address to type into a browser on this machine."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104 - compared
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self.cert else 'http'}://{shown}:{self.port}"

    @property
    def place(self) -> str:
        """URL of the database."""
        return self.database or f"sqlite:///{self.workspace.resolve() / 'service.db'}"


def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
