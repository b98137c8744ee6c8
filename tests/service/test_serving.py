"""`autopeft serve` and `autopeft token` as commands: who is let in, over what, and how it ends."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

import autopeft as ap
from autopeft.errors import InputError, ServiceError
from autopeft.service.serving import _listen
from autopeft.service.settings import Settings
from tests.service.conftest import QUESTION
from tests.service.live import running


def autopeft(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "autopeft", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


def test_a_token_is_printed_once_listed_without_its_secret_and_revoked(tmp_path) -> None:
    made = autopeft(tmp_path, "token", "create", "ann", "--scope", "read", "--json")
    token = json.loads(made.stdout)
    assert token["token"].startswith(f"autopeft_{token['id']}_")
    listed = autopeft(tmp_path, "token", "list")
    assert token["id"] in listed.stdout
    assert "revoked" not in listed.stdout
    assert token["token"] not in listed.stdout
    assert autopeft(tmp_path, "token", "revoke", token["id"]).returncode == 0
    assert "revoked" in autopeft(tmp_path, "token", "list").stdout
    unknown = autopeft(tmp_path, "token", "revoke", "0" * 12)
    assert (unknown.returncode, len(unknown.stderr.splitlines())) == (2, 1)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--host", "0.0.0.0", "--port", "0"), "autopeft token create"),
        (("--tls-cert", "cert.pem"), "--tls-key"),
        (("--host", "192.0.2.1", "--port", "0", "--tokens"), "192.0.2.1"),
        (("--database", "mysql+pymysql://x/y"), "PostgreSQL"),
        (("--longest", "soon"), "soon"),
        (("--tls-cert", "none.pem", "--tls-key", "none.pem"), "none.pem cannot be read"),
        (("--tls-cert", os.devnull, "--tls-key", os.devnull), "must name a certificate and its key"),
    ],
)
def test_what_cannot_be_served_is_one_line(tmp_path, flags, words) -> None:
    done = autopeft(tmp_path, "serve", *flags)
    assert done.returncode == 2
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said(tmp_path) -> None:
    with running(tmp_path / "ws", "--jobs", "0") as service:
        port = service.url.rpartition(":")[2]
        done = autopeft(tmp_path, "serve", "--port", port, "--workspace", "other")
        assert done.returncode == 2
        assert port in done.stderr
        assert service.close() == 0


def test_it_ends_when_it_is_told_though_somebody_follows_a_job(tmp_path) -> None:
    import threading

    with running(tmp_path / "ws", "--jobs", "0") as service:
        client = ap.Client(service.url)
        job = client.submit("search", demo="classification")
        followed: list[str] = []

        def follow() -> None:
            followed.extend(event["event"] for _, event in client._service.events(f"jobs/{job}/events", 0))

        thread = threading.Thread(target=follow)
        thread.start()
        thread.join(2)
        assert service.close() == 0
        thread.join(30)
        assert followed == ["state"]


def test_it_is_served_by_tls_to_who_trusts_its_certificate(tmp_path) -> None:
    cert, key = self_signed(tmp_path)
    flags = ("--tls-cert", str(cert), "--tls-key", str(key), "--jobs", "0")
    with running(tmp_path / "ws", *flags) as service:
        assert service.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(cert))
        question = ap.Question.build(**QUESTION)
        assert ap.Client(service.url, context=trusting).answer(question).status == "ok"
        with pytest.raises(ServiceError, match="certificate"):
            ap.Client(service.url).answer(question)
        assert "This machine is not measured yet" in service.log.read_text()


def self_signed(place: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (place / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (place / "key.pem").write_bytes(private)
    return place / "cert.pem", place / "key.pem"


@pytest.mark.parametrize("host", ["éé..x", "a\0b", "no.such.host.invalid"])
def test_a_host_that_is_none_is_said_to_be_none(host: str) -> None:
    with pytest.raises(InputError, match=r"cannot be listened on: .*; give another --host or --port"):
        _listen(Settings.build(host=host, port=0))
