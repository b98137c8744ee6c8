"""The table of what works: methods by families and abilities, every no with its reason below."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from autopeft.files import write_atomically
from autopeft.methods.quantization.schemes import find_quantization
from autopeft.methods.registry import METHODS

Facts = dict[str, tuple[bool, str]]

MARK = re.compile(r"(<!-- table -->\n).*(<!-- end -->)", re.DOTALL)
TITLES = {"encoder-decoder": "enc-dec", "vision": "ViT"}
ABILITIES = ("save/reload", "merge", "size", "fake = real")
SCHEMES = ("nf4", "int8", "torchao-int8")


class Notes:
    """Footnotes, each reason once, numbered as they come."""

    def __init__(self) -> None:
        """Begin without any."""
        self.numbers: dict[str, int] = {}

    def mark(self, reason: str) -> str:
        """Return the mark of a reason."""
        return f"[{self.numbers.setdefault(reason, len(self.numbers) + 1)}]"

    def lines(self) -> list[str]:
        """Return all reasons as lines."""
        return [f"[{number}] {reason}.  " for reason, number in self.numbers.items()]


def write_table(
    readme: Path,
    found: dict[str, Any],
    packed: dict[str, Any],
    families: tuple[str, ...],
    must: tuple[str, ...],
    reasons: dict[str, str],
) -> None:
    """Put the table and the counts between the marks of a README.

    Args:
        found: facts by "method on family".
        packed: facts by "method on family in scheme".
        must: abilities without which a pair does not work.
        reasons: why a method does not claim the families that it does not claim.
    """
    notes = Notes()
    rows = [
        _row(method, found, families, must, reasons, notes) + _packed(method, packed, notes)
        for method in METHODS
    ]
    counts = {
        family: sum(
            family in spec.families and _works(found.get(f"{method} on {family}", {}), must)
            for method, spec in METHODS.items()
        )
        for family in families
    }
    total = ", ".join(f"{TITLES.get(family, family)} {count}" for family, count in counts.items())
    for scheme in SCHEMES:
        total += f", {scheme} {sum(_takes(method, scheme) for method in METHODS)}"
    head = ["method", *(TITLES.get(family, family) for family in families), *ABILITIES, *SCHEMES]
    lines = [
        f"Of {len(METHODS)} methods work on: {total}.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *rows,
        "",
        *notes.lines(),
    ]
    text = readme.read_text(encoding="utf-8")
    write_atomically(readme, MARK.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], text))


def _works(facts: Facts, must: tuple[str, ...]) -> bool:
    return all(facts.get(name, (False, ""))[0] for name in must)


def _row(
    method: str,
    found: dict[str, Any],
    families: tuple[str, ...],
    must: tuple[str, ...],
    reasons: dict[str, str],
    notes: Notes,
) -> str:
    cells, working = [], {}
    for family in families:
        facts: Facts | None = found.get(f"{method} on {family}")
        if facts is None:
            cells.append("not run")
        elif family not in METHODS[method].families:
            cells.append("no " + notes.mark(reasons[method]))
        elif _works(facts, must):
            cells.append("yes")
            working[family] = facts
        else:
            broken = next(name for name in must if not facts.get(name, (False, ""))[0])
            cells.append("no " + notes.mark(f"{broken}: {facts.get(broken, (False, 'not reached'))[1]}"))
    cells += [_ability(name, working, notes) for name in ABILITIES]
    return f"| {method} | " + " | ".join(cells) + " |"


def _takes(method: str, scheme: str) -> bool:
    return find_quantization(scheme).packed in METHODS[method].quantised


def _packed(method: str, packed: dict[str, Any], notes: Notes) -> str:
    """Return the cells of packed bases, behind the others; a no gives the reason of the method's row."""
    cells = []
    for scheme in SCHEMES:
        ran = [facts for pair, facts in packed.items() if _is_of(pair, method, scheme)]
        if not ran:
            cells.append("not run")
        elif _takes(method, scheme):
            broken = [
                f"{name}: {note}" for facts in ran for name, (holds, note) in facts.items() if not holds
            ]
            cells.append("no " + notes.mark(broken[0]) if broken else "yes")
        else:
            cells.append("no " + notes.mark(METHODS[method].unpacked_reason))
    return " " + " | ".join(cells) + " |"


def _is_of(pair: str, method: str, scheme: str) -> bool:
    return pair.startswith(f"{method} on ") and pair.endswith(f" in {scheme}")


def _ability(name: str, working: dict[str, Facts], notes: Notes) -> str:
    """Return what holds of a method on the families that it works on; a reservation is a footnote too."""
    if not working:
        return "-"
    without = {family: facts[name][1] for family, facts in working.items() if not facts[name][0]}
    if not without:
        reserved = [note for _, note in (facts[name] for facts in working.values()) if ": " in note]
        return "yes" + (" " + notes.mark(reserved[0].partition(": ")[2]) if reserved else "")
    reason = next(iter(without.values()))
    if len(without) == len(working):
        return "no " + notes.mark(reason)
    where = " and ".join(TITLES.get(family, family) for family in without)
    return f"not on {where} " + notes.mark(reason)
