"""autopeft methods: what there is to train with, one line each, or all about one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from autopeft.cli.exits import Exit
from autopeft.cli.flags import Json, _methods, completion

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from autopeft.methods.spec import MethodSpec

_FAMILIES = {
    "decoder": "D", "encoder": "E", "encoder-decoder": "S", "vision": "V", "speech": "A", "multimodal": "M",
}  # fmt: skip
_PACKED = {"nf4": "4", "int8": "8", "torchao": "T", "gptq": "G", "awq": "A", "hqq": "H"}
_LEGEND = (
    "works on: D decoder, E encoder, S encoder-decoder, V vision, A speech, M multimodal\n"
    "packed:   base weights in 4 nf4 or fp4, 8 int8, T torchao, G GPTQ, A AWQ, H HQQ\n"
    "merges:   into the base weights, and so is served by whoever serves the base model\n"
    "served:   who loads what is saved: hf is transformers with peft, gguf is llama.cpp\n"
    "trains:   share of Llama-3.1-8B's parameters with the defaults; * of bert-base-uncased's\n"
    "`autopeft methods NAME` tells all about one."
)
_SERVERS = {"transformers": "hf", "vllm": "vllm", "llama.cpp": "gguf"}
_LOADS = {
    "peft": "as an adapter, with peft alone",
    "autopeft": "as an adapter, with peft after `import autopeft.adapters`",
    "model": "as a whole model, with transformers",
    "none": "not at all: peft does not save it so that it loads again",
}
_USUAL = ("Llama-3.1-8B", "bert-base-uncased")

Name = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", help="Tell all about this one.", autocompletion=completion(_methods)),
]
Family = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Only additive, reparameterised, selective ... methods."),
]
WorksOn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Only those for decoder, encoder, encoder-decoder, vision ... models."),
]
OnPacked = Annotated[
    str | None, typer.Option("--quantization", metavar="NAME", help="Only those for a base in nf4, int8 ...")
]
ServedBy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Only those whose adapter transformers, vllm or llama.cpp loads as saved."
    ),
]
Merges = Annotated[
    bool,
    typer.Option("--merges", help="Only those that merge into the base weights, to be served as these are."),
]


def methods(
    name: Name = None,
    family: Family = None,
    works_on: WorksOn = None,
    quantization: OnPacked = None,
    served_by: ServedBy = None,
    merges: Merges = False,
    as_json: Json = False,
) -> int:
    """List the PEFT methods, or tell all about one."""
    from autopeft import inventory
    from autopeft.cli import screen
    from autopeft.errors import InputError

    filters = {
        "--family": family,
        "--works-on": works_on,
        "--quantization": quantization,
        "--served-by": served_by,
        "--merges": merges,
    }
    given = [flag for flag, value in filters.items() if value]
    if name is not None and given:
        raise InputError(
            f"a filter chooses among all methods, but got {name!r} and {given[0]}: leave one of them out."
        )
    if name is not None:
        screen.show(inventory.method(name), about, as_json=as_json)
        return Exit.DONE
    found = inventory.methods(
        family=family,
        works_on=works_on,
        quantization=quantization,
        served_by=served_by,
        mergeable=merges,
    )
    screen.show(found, listed, as_json=as_json)
    return Exit.DONE


def listed(rows: Sequence[MethodSpec]) -> Group:
    """List methods, one line each."""
    from rich.console import Group
    from rich.text import Text

    from autopeft.cli import tables

    made = tables.table(
        "method", "family", "works on", "packed", "merges", "served", "trains", right=("trains",)
    )
    for each in rows:
        made.add_row(
            each.name,
            each.family,
            _letters(_FAMILIES, each.families),
            _letters(_PACKED, each.quantised),
            "yes" if each.mergeable else "-",
            " ".join(_SERVERS[one] for one in each.served) or "-",
            _share(each),
        )
    if not rows:
        return Group(Text("No method does all of that; leave out a filter."))
    made.columns[0].no_wrap = True
    return Group(made, Text(f"\n{len(rows)} methods\n{_LEGEND}"))


def about(spec: MethodSpec) -> Group:
    """Show all that is known of one method."""
    from rich.console import Group
    from rich.table import Table

    from autopeft.cli import tables

    grid = Table.grid(padding=(0, 2))
    for title, text in _facts(spec):
        grid.add_row(title, text)
    if not spec.knobs:
        return Group(tables.heading(spec.name), grid)
    return Group(tables.heading(spec.name), grid, "", _knobs(spec))


def _facts(spec: MethodSpec) -> Iterable[tuple[str, str]]:
    yield "family", spec.family
    yield "paper", spec.paper
    yield "trains", spec.trains
    for model, share in spec.shares.items():
        yield "", f"{_percent(share)} of {model} with the defaults"
    if spec.has_rank:
        yield "rank", f"default {spec.default_rank}" if spec.default_rank else "default is peft's"
    if spec.placeable:
        yield "targets", f"default {spec.default_targets or 'is what peft adapts in the architecture'}"
    yield "works on", ", ".join(name for name in _FAMILIES if name in spec.families)
    yield "for", ", ".join(spec.tasks)
    yield "packed bases", ", ".join(spec.quantised) or "none"
    if spec.unpacked_reason:
        yield "", f"no others: {spec.unpacked_reason}"
    yield "checkpointing", "yes" if spec.checkpointing else "no"
    yield "merges", "yes, and is served merged by whoever serves the base model" if spec.mergeable else "no"
    yield "loads", _LOADS[spec.exports]
    yield "served as saved", ", ".join(spec.served) or "by none"
    if spec.preparation:
        yield "prepares", spec.preparation
    if spec.peft_type:
        yield "in peft", f"{spec.peft_type}; every field of its configuration is a --knob"


def _knobs(spec: MethodSpec) -> Table:
    from autopeft.cli import tables

    made = tables.table("knob", "default", "worth trying", "meaning")
    for name, knob in spec.knobs.items():
        made.add_row(name, str(knob.default), ", ".join(map(str, knob.choices)), knob.meaning)
    return made


def _letters(names: dict[str, str], having: Iterable[str]) -> str:
    """Return a letter for each name that is there, and room for those that are not."""
    there = set(having)
    return "".join(letter if name in there else "." for name, letter in names.items())


def _share(spec: MethodSpec) -> str:
    for model, mark in zip(_USUAL, (" ", "*"), strict=True):
        if model in spec.shares:
            return f"{_percent(spec.shares[model])}{mark}"
    return "- "


def _percent(share: float) -> str:
    """Return a share of 0 to 1 with two digits: "0.085 %", "100 %"."""
    return f"{100 * share:.3g} %" if share >= 1e-5 else f"{100 * share:.1g} %"
