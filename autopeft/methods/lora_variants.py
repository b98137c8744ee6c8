"""LoRA's variants by name: what each starts from or does beside, as fields of peft's LoraConfig; no torch."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import JsonValue

from autopeft.methods.quantization.schemes import Packed
from autopeft.methods.spec import EVERY_FAMILY, Knob, MethodSpec, Server


class Variant(NamedTuple):
    """One variant.

    Attributes:
        fields: of peft's `LoraConfig`, as JSON.
        ratio: usual lora_alpha divided by the rank.
        moves: it takes what it starts from out of the weights, so that saving has to give it back.
        changes: it changes the weights for good, in the same way wherever it is loaded.
        directions: how many directions of each matrix one of its ranks takes up; 0: any rank will do.
        of_input: whether these are of what enters the matrix, not of the matrix itself.
        preparation: what it does with data before it trains; empty where it does nothing.
        packed: packed bases it works on.   unpacked: why it does not work on the others.
    """

    name: str
    paper: str
    trains: str
    fields: dict[str, JsonValue]
    ratio: float = 2.0
    moves: bool = False
    changes: bool = False
    directions: int = 0
    of_input: bool = False
    preparation: str = ""
    packed: tuple[Packed, ...] = ()
    unpacked: str = ""
    mergeable: bool = True


_UNTRIED = "it was never tried there"
_ACTIVATIONS = "reads the inputs of each matrix over a few batches"
VARIANTS: dict[str, Variant] = {
    row.name: row
    for row in (
        Variant(
            "pissa",
            "Meng et al. 2024, arXiv:2404.02948",
            "LoRA that starts as the principal part of each matrix",
            {"init_lora_weights": "pissa"},
            ratio=1.0,
            moves=True,
            directions=1,
        ),
        Variant(
            "olora",
            "Bueyuekakyuez 2024, arXiv:2406.01775",
            "LoRA that starts from an orthonormal basis of each matrix",
            {"init_lora_weights": "olora"},
            ratio=1.0,
            moves=True,
            directions=1,
        ),
        Variant(
            "corda",
            "Yang et al. 2024, arXiv:2406.05223",
            "LoRA that starts as the part of each matrix that the data use most",
            {"corda_config": {"corda_method": "ipm", "verbose": False}},
            ratio=1.0,
            moves=True,
            directions=1,
            preparation=f"{_ACTIVATIONS}, and keeps their covariance",
        ),
        Variant(
            "lora-ga",
            "Wang et al. 2024, arXiv:2407.05000",
            "LoRA that starts along the gradient of each matrix",
            {"init_lora_weights": "lora_ga", "lora_ga_config": {}},
            moves=True,
            directions=2,
            preparation="takes the gradient of each matrix over a few batches",
        ),
        Variant(
            "eva",
            "Paischer et al. 2024, arXiv:2410.07170",
            "LoRA that starts along the main directions of what enters each matrix",
            {"init_lora_weights": "eva", "eva_config": {"rho": 1.0}},
            directions=1,
            of_input=True,
            preparation=_ACTIVATIONS,
            packed=("nf4", "int8", "torchao"),
            unpacked=_UNTRIED,
        ),
        Variant(
            "mica",
            "arXiv:2604.01694",
            "LoRA's A behind a fixed B of the least singular directions of each matrix",
            {"init_lora_weights": "mica"},
        ),
        Variant(
            "orthogonal-lora",
            "datta0.github.io/posts/rethink-lora-init",
            "LoRA that starts from orthogonal rows",
            {"init_lora_weights": "orthogonal"},
            packed=("torchao",),
            unpacked="peft gives its factors the integers of packed weights",
        ),
        Variant(
            "kasa",
            "Wang et al. 2024, arXiv:2412.06071",
            "LoRA with singular values, on matrices without their least singular directions",
            {"kasa_config": {}},
            changes=True,
        ),
        Variant(
            "velora",
            "Miles et al. 2024, arXiv:2405.17991",
            "LoRA that keeps its activations as one number for each group of features",
            {"velora_config": {}},
            packed=("torchao",),
            unpacked="peft has no layer of it for such a base",
        ),
        Variant(
            "monteclora",
            "Sengupta et al. 2024, arXiv:2411.04358",
            "LoRA whose weights are drawn around learnt means while it trains",
            {"monteclora_config": {}},
            packed=("nf4", "int8", "torchao"),
            unpacked=_UNTRIED,
        ),
    )
}
MOVED = frozenset(name for name, row in VARIANTS.items() if row.moves)

LACKING = {
    "loftq": "it puts what a few bits keep of each matrix in its place, so that its adapter needs that base "
    "beside it, which no bundle holds; take pissa, or lora on a base in nf4",
    "qalora": "peft 0.21 has it for matrices packed by GPTQ alone; take lora on a GPTQ checkpoint",
    "alora": "which tokens it acts on is read off each row, of which a plan knows the length alone; "
    "take lora",
}
"""Variants that peft has and autopeft has not, and why."""


def servers(row: Variant) -> tuple[Server, ...]:
    """Return who serves what is saved: plain LoRA everywhere that serves LoRA."""
    plain = row.moves or ("init_lora_weights" in row.fields and not row.changes)
    return ("transformers", "vllm", "llama.cpp") if plain else ("transformers",)


LORA_VARIANTS: tuple[MethodSpec, ...] = tuple(
    MethodSpec(
        name=row.name,
        family="reparameterised",
        paper=row.paper,
        trains=row.trains,
        has_rank=True,
        default_rank=16,
        placeable=True,
        default_targets="query+value",
        knobs={
            "alpha_ratio": Knob(
                default=row.ratio,
                choices=(1.0, 2.0),
                meaning="lora_alpha divided by the rank: the update's scale",
            )
        },
        mergeable=row.mergeable,
        peft_type="LORA",
        rank_field="r",
        moves_base=row.moves or row.changes,
        preparation=row.preparation,
        families=EVERY_FAMILY,
    )
    for row in VARIANTS.values()
)
