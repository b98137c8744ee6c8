"""What a server would hold, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from autopeft.cli.tables import heading, table
from autopeft.units import format_bytes, format_limit

if TYPE_CHECKING:
    from autopeft.plan.serving import Room, Serving


def shown(serving: Serving) -> Group:
    """Show one configuration served merged, and with adapters beside the base."""
    grid = Table.grid(padding=(0, 2))
    base = f"the base in {serving.dtype}, packed where it is packed"
    grid.add_row("weights", format_bytes(serving.weights_bytes), base)
    per_row = format_bytes(serving.kv_token_bytes * serving.seq_len)
    cache = f"a token; {per_row} a sequence of {serving.seq_len:,}"
    grid.add_row("keys and values", format_bytes(serving.kv_token_bytes), cache)
    if serving.slot_bytes is not None and serving.adapter_bytes is not None:
        slot = f"on the device, of rank {serving.slot_rank} at every linear layer"
        grid.add_row("a slot", format_bytes(serving.slot_bytes), slot)
        size = format_bytes(serving.adapter_bytes)
        grid.add_row("an adapter", size, "in the host's memory, each that is loaded")
    parts: list[RenderableType] = [heading(f"{serving.model} served: {serving.label}"), grid]
    if serving.limit_bytes is not None:
        of = f"{serving.share:.0%} of {format_limit(serving.limit_bytes)}, vLLM's usual share"
        parts += [Text(""), _rooms(serving), Text(f"Of {of}. An {serving.bound}.")]
        if serving.weights_bytes > serving.share * serving.limit_bytes:
            parts.append(Text("It does not fit: the weights alone take more.", style="bold red"))
        elif serving.unmerged is not None:
            words = "Adapters are slots on the device, left beside so many sequences of"
            parts.append(Text(f"{words} {serving.seq_len:,} tokens; more lie in the host's memory."))
    else:
        parts.append(Text("Name a device (--gpu NAME or --gpu-mem SIZE) to see what fits."))
    return Group(*parts)


def _rooms(serving: Serving) -> Table:
    made = table("served", "tokens", "sequences", "adapters", "", right=("tokens", "sequences", "adapters"))
    for name, found, reason in (
        ("merged", serving.merged, serving.merged_reason),
        ("beside the base", serving.unmerged, serving.unmerged_reason),
    ):
        made.add_row(name, *_room(found, serving), reason)
    return made


def _room(found: Room | None, serving: Serving) -> tuple[str, str, str]:
    if found is None:
        return "-", "-", "-"
    adapters = "1, folded" if found.adapters is None else f"{found.adapters:,} beside {serving.sequences:,}"
    return f"{found.tokens:,}", f"{found.sequences:,}", adapters
