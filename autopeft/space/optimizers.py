"""The optimizers autopeft knows, as data: one visible table, torch-free."""

from __future__ import annotations

import re
from typing import Literal

from autopeft.errors import UnknownNameError
from autopeft.message import Message

Library = Literal["torch", "bitsandbytes", "transformers", "peft", "autopeft"]


class OptimizerSpec(Message):
    """One row of the table.

    Attributes:
        aliases: what other tools call it; case, dashes and underscores do not count.
        library: whose code steps; bitsandbytes is an optional package.
        state: what it keeps for every trained parameter.
        paper: where it comes from.
        forwards: how often it runs the model forward over each micro-batch.
    """

    name: str
    aliases: tuple[str, ...] = ()
    library: Library = "torch"
    state: str
    paper: str
    forwards: int = 1


_ADAM = "Kingma and Ba 2014, arXiv:1412.6980"
_ADAMW = "Loshchilov and Hutter 2017, arXiv:1711.05101"
_EIGHT_BIT = "Dettmers et al. 2021, arXiv:2110.02861"
_QLORA = "Dettmers et al. 2023, arXiv:2305.14314"
_LION = "Chen et al. 2023, arXiv:2302.06675"
_ADEMAMIX = "Pagliardini et al. 2024, arXiv:2409.03137"

_SPECS = (
    OptimizerSpec(name="adamw", aliases=("adamw_torch",), state="two moments", paper=_ADAMW),
    OptimizerSpec(
        name="adamw-fused",
        aliases=("adamw_torch_fused",),
        state="two moments, no temporaries",
        paper=_ADAMW,
    ),
    OptimizerSpec(name="adam", aliases=("adam_torch",), state="two moments", paper=_ADAM),
    OptimizerSpec(
        name="adamw-8bit",
        aliases=("adamw_bnb_8bit",),
        library="bitsandbytes",
        state="two moments of 8 bits, and 8 bytes a block of 256",
        paper=_EIGHT_BIT,
    ),
    OptimizerSpec(
        name="paged-adamw",
        aliases=("paged_adamw_32bit",),
        library="bitsandbytes",
        state="two fp32 moments, those of 100,000 values or more in memory that the host shares",
        paper=_QLORA,
    ),
    OptimizerSpec(
        name="paged-adamw-8bit",
        library="bitsandbytes",
        state="two moments of 8 bits, those of 100,000 values or more in memory that the host shares",
        paper=_QLORA,
    ),
    OptimizerSpec(
        name="adafactor",
        library="transformers",
        state="a mean of squares for each row and each column",
        paper="Shazeer and Stern 2018, arXiv:1804.04235",
    ),
    OptimizerSpec(
        name="lion",
        aliases=("lion_32bit",),
        library="bitsandbytes",
        state="one fp32 moment",
        paper=_LION,
    ),
    OptimizerSpec(
        name="lion-8bit",
        library="bitsandbytes",
        state="one moment of 8 bits, and 4 bytes a block of 256",
        paper=_LION,
    ),
    OptimizerSpec(
        name="paged-lion",
        aliases=("paged_lion_32bit",),
        library="bitsandbytes",
        state="one fp32 moment, of 100,000 values or more in memory that the host shares",
        paper=_LION,
    ),
    OptimizerSpec(
        name="paged-lion-8bit",
        library="bitsandbytes",
        state="one moment of 8 bits, of 100,000 values or more in memory that the host shares",
        paper=_LION,
    ),
    OptimizerSpec(
        name="ademamix",
        aliases=("ademamix_32bit",),
        library="bitsandbytes",
        state="three fp32 moments",
        paper=_ADEMAMIX,
    ),
    OptimizerSpec(
        name="ademamix-8bit",
        library="bitsandbytes",
        state="three moments of 8 bits, and 12 bytes a block of 256",
        paper=_ADEMAMIX,
    ),
    OptimizerSpec(name="sgd", state="nothing", paper="Robbins and Monro 1951"),
    OptimizerSpec(
        name="sgd-momentum", aliases=("momentum",), state="one moment", paper="Polyak 1964, momentum 0.9"
    ),
    OptimizerSpec(name="rmsprop", state="one mean of squares", paper="Tieleman and Hinton 2012"),
    OptimizerSpec(name="adagrad", state="one sum of squares", paper="Duchi et al. 2011"),
    OptimizerSpec(
        name="muon",
        state="one moment; matrices only",
        paper="Jordan et al. 2024, kellerjordan.github.io/posts/muon",
    ),
    OptimizerSpec(
        name="lora-fa",
        library="peft",
        state="two moments of LoRA's B; A stays as it was initialised",
        paper="Zhang et al. 2023, arXiv:2308.03303",
    ),
    OptimizerSpec(
        name="lora-plus",
        aliases=("loraplus",),
        library="peft",
        state="two moments; LoRA's B learns 16 times faster than A",
        paper="Hayou et al. 2024, arXiv:2402.12354",
    ),
    OptimizerSpec(
        name="mezo",
        library="autopeft",
        state="nothing; no gradients and no activations either, as it runs forward only",
        paper="Malladi et al. 2023, arXiv:2305.17333",
        forwards=2,
    ),
    OptimizerSpec(
        name="galore",
        aliases=("galore_adamw",),
        library="autopeft",
        state="two moments and a projection of rank 128 for a linear layer's matrix",
        paper="Zhao et al. 2024, arXiv:2403.03507",
    ),
    OptimizerSpec(
        name="apollo",
        aliases=("apollo_adamw",),
        library="autopeft",
        state="two moments and a random projection of rank 128 for a linear layer's matrix",
        paper="Zhu et al. 2024, arXiv:2412.05270",
    ),
)

OPTIMIZERS: dict[str, OptimizerSpec] = {spec.name: spec for spec in _SPECS}


def find_optimizer(name: str) -> OptimizerSpec:
    """Return an optimizer's row, by its name here or in another tool ("paged_adamw_8bit", "AdamW8bit").

    Raises:
        UnknownNameError: there is no such optimizer.
    """
    wanted = _bare(name)
    for spec in _SPECS:
        if wanted in map(_bare, (spec.name, *spec.aliases)):
            return spec
    raise UnknownNameError("optimizer", name, OPTIMIZERS)


def _bare(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
