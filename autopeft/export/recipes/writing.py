"""Writing a recipe in a format: one visible table."""

from __future__ import annotations

from collections.abc import Callable

from autopeft.export.recipes import axolotl, llama_factory, script, torchtune, trl, unsloth
from autopeft.export.recipes.subject import Format, Recipe, Subject

WRITERS: dict[Format, Callable[[Subject], Recipe]] = {
    "trl": trl.write,
    "axolotl": axolotl.write,
    "llama-factory": llama_factory.write,
    "torchtune": torchtune.write,
    "unsloth": unsloth.write,
    "script": script.write,
}
