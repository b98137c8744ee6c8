"""Quantisation schemes as data: what a frozen base is stored as, by name. Torch-free."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from autopeft.errors import UnknownNameError
from autopeft.message import Message

Library = Literal["none", "bitsandbytes", "torchao", "gptqmodel", "hqq"]
Kind = Literal["none", "4bit", "8bit", "packed", "rowwise"]
Packed = Literal["nf4", "int8", "torchao", "gptq", "awq", "hqq"]
"""What a packed base is called by methods: schemes whose layers are wrapped alike share a name."""

# Columns of activations beyond it are multiplied in 16 bits (`llm_int8_threshold` of transformers).
OUTLIER_THRESHOLD = 6.0


class Quantization(Message):
    """How the matrices of a frozen base model are stored.

    Attributes:
        kind: which modules stand for the quantised ones (`bnb.py`, `packed.py`, `rowwise.py`).
        bits: bits of one weight, statistics not counted.
        block: weights that share a scale; 0 where a whole output row shares one.
        code: name of the data type, as the library calls it.
        nested: the scales are quantised too.
        stores: what lies in memory for a matrix of N outputs and K inputs.
        reads: what the forward and the backward pass allocate besides inputs and outputs.
        trainable: autopeft can train on it; otherwise it can only be planned.
        ready_made: its weights come only from a checkpoint that is already quantised.
        modelled: its memory is read from source code and never compared with the real module, so it
            counts as a guess.
        source: where the layout and the passes are taken from.
    """

    name: str
    library: Library
    kind: Kind
    bits: int
    block: int = 0
    code: str = ""
    nested: bool = False
    stores: str
    reads: str
    trainable: bool = True
    ready_made: bool = False
    modelled: bool = False
    source: str = ""

    @property
    def packed(self) -> Packed | None:
        """Under which name a method says that it works on such a base; None where nothing is packed."""
        names: dict[str, Packed] = {
            "4bit": "nf4", "8bit": "int8", "int8": "torchao", "float8_e4m3fn": "torchao",
            "torchao": "torchao", "gptq": "gptq", "awq": "awq", "hqq": "hqq",
        }  # fmt: skip
        return names.get(self.kind) or names.get(self.code)


def training_needs(scheme: Quantization, model: str, stored: str | None) -> str:
    """Say what training on such a base takes that planning does not; empty where nothing lacks here.

    Args:
        stored: `quant_method` of the checkpoint at hand.
    """
    if not scheme.trainable:
        return f"training: {scheme.name} has no backward pass yet; nf4-dq and int8 train"
    lacks = scheme.ready_made and stored != scheme.code
    needed = [f"a checkpoint of {model} that is {scheme.name} already"] if lacks else []
    if scheme.kind != "none" and find_spec(scheme.library) is None:
        needed.append(f"the package {scheme.library}, which is not installed here")
    return f"to train: {' and '.join(needed)}" if needed else ""


_BNB = "bitsandbytes 0.50.2: nn/modules.py, autograd/_functions.py, backends/cuda/ops.py"
_AO = "torchao 0.18: quantization/quantize_/workflows"
_ABSMAX = "uint8 [NK/2, 1], fp32 absmax per 64, fp32 code of 16"
_NESTED = "uint8 [NK/2, 1], uint8 absmax per 64, fp32 absmax per 256 of these, codes of 16 and 256, offset"
_DEQUANTISES = "the dequantised matrix, in forward and again in backward"
_KEEPS = "the dequantised matrix, kept from forward to backward"


def _four_bit(code: str, *, nested: bool) -> Quantization:
    return Quantization(
        name=f"{code}-dq" if nested else code,
        library="bitsandbytes",
        kind="4bit",
        bits=4,
        block=64,
        code=code,
        nested=nested,
        stores=_NESTED if nested else _ABSMAX,
        reads=_DEQUANTISES,
        source=_BNB,
    )


def _gptq(bits: int) -> Quantization:
    return Quantization(
        name=f"gptq-int{bits}",
        library="gptqmodel",
        kind="packed",
        bits=bits,
        block=128,
        code="gptq",
        stores="int32 [K bits/32, N], scales [K/128, N], int32 zeros [K/128, N bits/32], int32 g_idx [K]",
        reads=_KEEPS,
        ready_made=True,
        modelled=True,
        source="gptqmodel: nn_modules/qlinear/torch.py, the kernel it trains with",
    )


def _hqq(bits: int) -> Quantization:
    return Quantization(
        name=f"hqq-int{bits}",
        library="hqq",
        kind="packed",
        bits=bits,
        block=64,
        code="hqq",
        stores="uint8 [NK bits/8], scales and zeros [NK/64, 1]",
        reads=f"{_DEQUANTISES}; the input, kept",
        ready_made=True,
        modelled=True,
        source="hqq 0.2: core/quantize.py, HQQMatmulNoCacheDeq",
    )


_SCHEMES = (
    Quantization(name="none", library="none", kind="none", bits=16, stores="the weights", reads="nothing"),
    _four_bit("nf4", nested=False),
    _four_bit("nf4", nested=True),
    _four_bit("fp4", nested=False),
    _four_bit("fp4", nested=True),
    Quantization(
        name="int8",
        library="bitsandbytes",
        kind="8bit",
        bits=8,
        code="llm.int8",
        stores="int8 [N, K], fp32 scale per output",
        reads="the input in fp16 and int8, its outlier mask, the product in int32 and fp16; in backward the "
        "dequantised matrix; the input is kept until the loss is gone",
        source=_BNB,
    ),
    Quantization(
        name="torchao-int8",
        library="torchao",
        kind="rowwise",
        bits=8,
        code="int8",
        stores="int8 [N, K], fp32 scale per output",
        reads=_KEEPS,
        source=f"{_AO}/int8",
    ),
    Quantization(
        name="torchao-float8",
        library="torchao",
        kind="rowwise",
        bits=8,
        code="float8_e4m3fn",
        stores="float8 [N, K], fp32 scale per output",
        reads=f"{_KEEPS}, and in fp32 while it is made",
        source=f"{_AO}/float8",
    ),
    Quantization(
        name="torchao-int4",
        library="torchao",
        kind="packed",
        bits=4,
        block=128,
        code="torchao",
        stores="uint8 [N, K/2], scales and zeros [K/128, N]",
        reads=f"{_DEQUANTISES}: as if it had a backward kernel, which torchao 0.18 lacks",
        trainable=False,
        modelled=True,
        source=f"{_AO}/int4",
    ),
    _gptq(4),
    _gptq(8),
    Quantization(
        name="awq-int4",
        library="gptqmodel",
        kind="packed",
        bits=4,
        block=128,
        code="awq",
        stores="int32 [K, N/8], scales [K/128, N], int32 zeros [K/128, N/8]",
        reads=f"{_DEQUANTISES}, there once per row of the batch; the input, kept",
        ready_made=True,
        modelled=True,
        source="gptqmodel: nn_modules/qlinear/gemm_awq.py, AwqGemmFn",
    ),
    _hqq(4),
    _hqq(8),
)

QUANTIZATIONS: dict[str, Quantization] = {scheme.name: scheme for scheme in _SCHEMES}

# "4bit" and "bitsandbytes" alone mean what people who write them run: QLoRA is the nested nf4 of its paper.
_ALIASES = {
    "": "none",
    "no": "none",
    "fp16": "none",
    "bf16": "none",
    "16bit": "none",
    "4bit": "nf4",
    "bnb-4bit": "nf4",
    "bnb": "nf4",
    "bitsandbytes": "nf4",
    "nf4-double": "nf4-dq",
    "nf4-nested": "nf4-dq",
    "fp4-double": "fp4-dq",
    "qlora": "nf4-dq",
    "8bit": "int8",
    "bnb-8bit": "int8",
    "llm-int8": "int8",
    "torchao": "torchao-int8",
    "ao-int8": "torchao-int8",
    "ao-int4": "torchao-int4",
    "ao-float8": "torchao-float8",
    "torchao-fp8": "torchao-float8",
    "gptq": "gptq-int4",
    "gptq-4bit": "gptq-int4",
    "gptq-8bit": "gptq-int8",
    "awq": "awq-int4",
    "awq-4bit": "awq-int4",
    "hqq": "hqq-int4",
    "hqq-4bit": "hqq-int4",
    "hqq-8bit": "hqq-int8",
}


def normalise(name: str) -> str:
    """Return the name under which a scheme is known: "bnb.nf4" is "nf4", "qlora" is "nf4-dq".

    Raises:
        UnknownNameError: nobody knows such a scheme.
    """
    plain = name.strip().lower().replace(".", "-").replace("_", "-").replace("int-", "int")
    for written in (plain, plain.removeprefix("bnb-").removeprefix("bitsandbytes-")):
        known = _ALIASES.get(written, written)
        if known in QUANTIZATIONS:
            return known
    raise UnknownNameError("quantization", name, QUANTIZATIONS)


def find_quantization(name: str) -> Quantization:
    """Return a scheme by its name or an alias.

    Raises:
        UnknownNameError: nobody knows such a scheme.
    """
    return QUANTIZATIONS[normalise(name)]
