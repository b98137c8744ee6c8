"""Packing: how a base is packed while it is loaded, as data. Torch-free."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from autopeft.message import Message

Module = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*]+$")]


class Packing(Message):
    """The configuration of a quantisation in transformers' words; lines of Python are made of it, never kept.

    Attributes:
        kind: bits of bitsandbytes, or torchao's configuration.
        skipped: modules that stay as they are; None leaves it to transformers.
        code: of 4 bits.   nested: the scales are packed too.
        compute_dtype: that the weights are unpacked to.
    """

    kind: Literal["4bit", "8bit", "Int8WeightOnlyConfig", "Float8WeightOnlyConfig"]
    skipped: tuple[Module, ...] | None = None
    code: Literal["fp4", "nf4"] = "fp4"
    nested: bool = False
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @property
    def imports(self) -> str:
        """The lines that import what `argument` names."""
        if self.kind in ("4bit", "8bit"):
            return "from transformers import BitsAndBytesConfig\n"
        return f"from torchao.quantization import {self.kind}\nfrom transformers import TorchAoConfig\n"

    @property
    def argument(self) -> str:
        """The argument of `from_pretrained`, as typed behind others."""
        skipped = None if self.skipped is None else json.dumps(list(self.skipped))
        if self.kind not in ("4bit", "8bit"):
            more = "" if skipped is None else f", modules_to_not_convert={skipped}"
            return f", quantization_config=TorchAoConfig({self.kind}(){more})"
        given = [f"load_in_{self.kind}=True"]
        if skipped is not None:
            given.append(f"llm_int8_skip_modules={skipped}")
        if self.kind == "4bit":
            given.append(f'bnb_4bit_quant_type="{self.code}"')
        if self.nested:
            given.append("bnb_4bit_use_double_quant=True")
        if self.compute_dtype != "float32":
            given.append(f'bnb_4bit_compute_dtype="{self.compute_dtype}"')
        return f", quantization_config=BitsAndBytesConfig({', '.join(given)})"
