"""autopeft serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import takes_request
from autopeft.files import THIS_MACHINE

if TYPE_CHECKING:
    from autopeft.request import Request

_WHERE, _WHERE_KEPT, _WHO, _HOW_MUCH = "Where it listens", "Where", "Who may", "How much"

Host = Annotated[
    str,
    typer.Option(metavar="ADDRESS", rich_help_panel=_WHERE, help="Address; all but loopback need tokens."),
]
Port = Annotated[
    int, typer.Option(metavar="N", min=0, max=65535, rich_help_panel=_WHERE, help="0: any that is free.")
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="HOST",
        rich_help_panel=_WHERE,
        help="A name it is called by, repeatable; all but loopback need tokens.",
    ),
]
Cert = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", rich_help_panel=_WHERE, help="Certificate of TLS."),
]
Key = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", rich_help_panel=_WHERE, help="Its key.")
]
NeedTokens = Annotated[
    bool, typer.Option("--tokens", metavar="", rich_help_panel=_WHO, help="Ask for tokens on loopback, too.")
]
Hub = Annotated[
    bool, typer.Option("--hub", metavar="", rich_help_panel=_WHO, help="Let users name any model of the hub.")
]
Models = Annotated[
    list[Path] | None,
    typer.Option(metavar="DIR", rich_help_panel=_WHO, help="Let users name models below; may be repeated."),
]
Rate = Annotated[
    float,
    typer.Option(
        metavar="N", min=0, rich_help_panel=_HOW_MUCH, help="Requests a second of a user; 0: no limit."
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        rich_help_panel=_WHERE_KEPT,
        help="Database of jobs and tokens, which several services may share. Default: a file.",
    ),
]
Slots = Annotated[
    int,
    typer.Option("--jobs", metavar="N", min=0, max=64, rich_help_panel=_HOW_MUCH, help="Jobs side by side."),
]
Quota = Annotated[
    int, typer.Option(metavar="N", min=1, rich_help_panel=_HOW_MUCH, help="Jobs of a user that wait or run.")
]
Longest = Annotated[
    str, typer.Option("--longest", metavar="TIME", rich_help_panel=_HOW_MUCH, help="Most time of a job.")
]
UploadSize = Annotated[
    str, typer.Option("--upload", metavar="SIZE", rich_help_panel=_HOW_MUCH, help="Largest file of data.")
]


@takes_request("workspace", "address", "mlflow")
def serve(
    request: Request,
    host: Host = "127.0.0.1",
    port: Port = 8321,
    name: Names = None,
    tls_cert: Cert = None,
    tls_key: Key = None,
    tokens: NeedTokens = False,
    hub: Hub = False,
    models: Models = None,
    rate: Rate = 50.0,
    database: DatabaseUrl = None,
    jobs: Slots = 1,
    quota: Quota = 20,
    longest: Longest = "24h",
    upload: UploadSize = "256MiB",
) -> int:
    """Serve plans and searches to browsers and programs, until Ctrl-C.

    Whoever is on this machine may do everything; on any other address than loopback every request needs a
    token (`autopeft token create`).
    """
    import sys

    from autopeft.optional import require

    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require(package, extra="service", purpose="autopeft serve")
    from autopeft.service.serving import serve as run
    from autopeft.service.settings import Settings
    from autopeft.service.telemetry import log_to_stderr

    settings = Settings.build(
        host=host,
        port=port,
        names=tuple(name or ()),
        workspace=request.workspace,
        cert=tls_cert,
        key=tls_key,
        tokens=tokens,
        hub=hub,
        models=tuple(models or ()),
        rate=rate,
        database=database,
        slots=jobs,
        quota=quota,
        longest_seconds=longest,
        upload_bytes=upload,
        address=request.address,
        mlflow=request.mlflow,
    )
    log_to_stderr()

    def announce(url: str) -> None:
        print(f"autopeft serves {url} (Ctrl-C ends it)", file=sys.stdout, flush=True)
        if not (Path(request.workspace) / "profiles" / f"{THIS_MACHINE}.yaml").exists():
            print(
                "This machine is not measured yet: the first plan for it, or the first job within its own "
                f"time, takes half a minute for that; autopeft profile --workspace {request.workspace} "
                "has it done before.",
                flush=True,
            )

    run(settings, announce)
    return Exit.DONE
