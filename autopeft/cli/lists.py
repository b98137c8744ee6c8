"""autopeft models and gpus: what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, takes_request

if TYPE_CHECKING:
    from autopeft.request import Request


def models(as_json: Json = False) -> int:
    """List the base models known by name."""
    from autopeft import inventory
    from autopeft.cli import screen, tables

    screen.show(inventory.models(), tables.models, as_json=as_json)
    return Exit.DONE


@takes_request("workspace")
def gpus(request: Request, as_json: Json = False) -> int:
    """List the devices that can be planned for."""
    from autopeft import inventory
    from autopeft.cli import screen, tables

    screen.show(inventory.gpus(request), tables.devices, as_json=as_json)
    return Exit.DONE
