"""Efficiency: how close operators come to a device's nominal speeds, by their class and size.

A profile that was measured brings its own table (`HardwareProfile.operators`). For a datasheet the shares
below hold for GPUs in general and are fitted to no device and no training run:

- matrix products: the best shapes reach 86 % (A100), 80 % (H100), 78 % (B200), 77 % (MI250X) and 60 %
  (MI300X) of the datasheet in bf16 (S. Bekman, Machine Learning Engineering, table of maximum achievable
  matmul FLOPS, 2025); usual shapes reach less than the best by tiles and waves that are not full.
- fp32 products: 75 % of the datasheet on an H100 (4096 cubed, cuBLAS without TF32).
- fused attention: FlashAttention-2 reaches up to 73 % forward and 63 % backward on an A100 at long
  sequences (Dao 2023), and about half of it at some hundred tokens; kernels that take a mask are slower.
- memory: large copies reach 85 to 91 % of the nominal bandwidth.
- a kernel takes a few microseconds from its launch to its end however little it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from autopeft.cost.tape import Kind
from autopeft.errors import UnsupportedError
from autopeft.hardware.profile import HardwareProfile, OperatorSpeed


class Sort(IntEnum):
    """Operators that a device runs at like speed."""

    POINTWISE = 0
    FUNCTION = 1
    REDUCTION = 2
    GATHER = 3
    MATMUL = 4
    ATTENTION = 5
    ATTENTION_BACKWARD = 6
    DECOMPOSITION = 7
    FFT = 8
    OPTIMIZER = 9
    DEQUANTISE = 10


SORT_NAMES = {sort: sort.name.lower().replace("_", "-") for sort in Sort}
"""Names of the sorts in a profile's table; of those that multiply, "matmul.float32" and so on."""

_WITH_DTYPE = (Sort.MATMUL, Sort.ATTENTION, Sort.ATTENTION_BACKWARD)
_FUNCTIONS = frozenset(
    (
        *("silu", "gelu", "tanh", "sigmoid", "exp", "log", "erf", "sin", "cos", "_softmax", "_log_softmax"),
        *("silu_backward", "gelu_backward", "tanh_backward", "sigmoid_backward", "native_dropout"),
        *("_softmax_backward_data", "_log_softmax_backward_data", "native_layer_norm", "bernoulli"),
        *("native_layer_norm_backward", "randn_like", "rand_like", "bernoulli_", "softplus", "elu", "mish"),
        *("rsqrt", "normal_", "uniform_"),
    )
)
_REDUCTIONS = frozenset(
    ("sum", "mean", "linalg_vector_norm", "norm", "amax", "max", "any", "all", "var", "prod", "cumsum")
)
_GATHERS = frozenset(
    (
        *("embedding", "embedding_dense_backward", "index", "index_put", "index_put_", "index_select"),
        *("index_add", "index_add_", "gather", "scatter", "scatter_add", "scatter_add_", "sort", "topk"),
        *("_index_put_impl_", "nonzero", "argsort", "index_copy", "index_copy_", "take"),
    )
)
_ONLY_NORMS = ("linalg_vector_norm", "linalg_cross", "linalg_diagonal")
_BY_NAME = dict.fromkeys(_FUNCTIONS, Sort.FUNCTION) | dict.fromkeys(_GATHERS, Sort.GATHER)
_BY_NAME |= dict.fromkeys(_REDUCTIONS, Sort.REDUCTION)
_SWEEPS = {"svd": 20.0, "eigh": 10.0, "eig": 20.0, "qr": 2.0}


@dataclass(frozen=True)
class Shares:
    """Shares of a datasheet's numbers that operators reach, and the seconds of the smallest kernel."""

    matmul: float = 0.70
    attention: float = 0.40
    attention_backward: float = 0.30
    # Flash kernels skip what a causal mask hides: half of the FLOPs that are counted.
    flash: float = 1.0
    flash_backward: float = 0.8
    bandwidth: float = 0.85
    # Scattered rows come in whole sectors, of which less is used.
    gather: float = 0.40
    # Look-ups of 4-bit codes are bound by the cores, not by memory.
    dequantise: float = 0.40
    kernel_seconds: float = 3e-6
    # A factorisation works column by column, each a kernel that waits for the one before; an SVD sweeps.
    column_seconds: float = 1.5e-6
    fft: float = 0.5


GENERIC = Shares()

_BYTE_SHARES = {Sort.GATHER: GENERIC.gather, Sort.FFT: GENERIC.fft, Sort.DEQUANTISE: GENERIC.dequantise}

# Where a profile does not name a dtype's speed, that of the next of these is the safe one.
_SLOWER = {"bfloat16": ("float16", "float32"), "float16": ("bfloat16", "float32"), "float64": ("float32",)}
_SLOWER |= dict.fromkeys(("complex64", "complex128"), ("float32",))


_BY_KIND = {Kind.MATMUL: Sort.MATMUL, Kind.FFT: Sort.FFT}


@lru_cache(maxsize=4096)
def sort_of(name: str, kind: int) -> Sort:
    """Say at whose speed an operator runs."""
    short = name.partition("::")[2]
    if kind in _BY_KIND:
        return _BY_KIND[Kind(kind)]
    if kind == Kind.ATTENTION:
        return Sort.ATTENTION_BACKWARD if "backward" in short else Sort.ATTENTION
    if kind == Kind.LINALG and short not in _ONLY_NORMS:
        return Sort.POINTWISE if "check_errors" in short else Sort.DECOMPOSITION
    if "dequantize" in short:
        return Sort.DEQUANTISE
    if short.startswith(("_foreach", "_fused")):
        return Sort.OPTIMIZER
    return _BY_NAME.get(short, Sort.POINTWISE)


def speeds(profile: HardwareProfile, sort: Sort, dtype: str, name: str = "") -> OperatorSpeed:
    """Return how fast an operator runs: as measured, else as the datasheet and `GENERIC` say.

    Args:
        profile: of the device.
        sort: what it is like.
        dtype: what it computes in.
        name: its own name, which some tables know.

    Raises:
        UnsupportedError: they multiply, and the profile has no speed for the dtype.
    """
    if name in profile.operators:
        return profile.operators[name]
    for each in (dtype, *_SLOWER.get(dtype, ())):
        key = f"{SORT_NAMES[sort]}.{each}" if sort in _WITH_DTYPE else SORT_NAMES[sort]
        if key in profile.operators:
            return profile.operators[key]
    if sort in _WITH_DTYPE:
        return _multiplying(profile, sort, dtype, flash="flash" in name and profile.device != "cpu")
    share = _BYTE_SHARES.get(sort, GENERIC.bandwidth)
    return OperatorSpeed(
        seconds=_kernel_seconds(profile), bytes_per_second=memory_speed(profile, share=share)
    )


def memory_speed(profile: HardwareProfile, *, share: float = GENERIC.bandwidth) -> float:
    """Return the bytes per second that memory reaches: as measured, or a share of what the datasheet says."""
    return profile.bandwidth_bytes_per_second * (1.0 if profile.provenance.kind == "measured" else share)


def unpacking_seconds(profile: HardwareProfile, weights: float) -> float:
    """Return what unpacking weights by torch's own operators takes: shift, mask, cast, shift, scale.

    Each of them reads and writes all weights, in 1 to 4 bytes: about 20 bytes a weight.
    """
    return 20.0 * weights / memory_speed(profile)


def _multiplying(profile: HardwareProfile, sort: Sort, dtype: str, *, flash: bool) -> OperatorSpeed:
    shares = {
        Sort.MATMUL: GENERIC.matmul,
        Sort.ATTENTION: GENERIC.flash if flash else GENERIC.attention,
        Sort.ATTENTION_BACKWARD: GENERIC.flash_backward if flash else GENERIC.attention_backward,
    }
    paper = profile.provenance.kind != "measured"
    # A measured speed is that of products, so attention's share of it is what is left of the paper's.
    share = shares[sort] if paper else shares[sort] / GENERIC.matmul
    names = (dtype, *_SLOWER.get(dtype, ()))
    speed = next((profile.matmul_flops[name] for name in names if name in profile.matmul_flops), None)
    if speed is None:
        raise UnsupportedError(
            f"the profile {profile.name} must have the speed of {dtype} products, but has only: "
            f"{', '.join(sorted(profile.matmul_flops))}; measure it or choose another precision."
        )
    return OperatorSpeed(
        seconds=_kernel_seconds(profile),
        flops_per_second=speed * share,
        bytes_per_second=memory_speed(profile),
    )


def _kernel_seconds(profile: HardwareProfile) -> float:
    return 0.0 if profile.device == "cpu" else GENERIC.kernel_seconds


@dataclass(frozen=True)
class Pace:
    """How fast each operator of a tape runs on a device, in their order.

    Attributes:
        seconds: at least.   flop, byte, cached: seconds of one, beyond the cache and within it.
        cache_bytes: how much is within.   adds: whether computing and moving follow each other.
        column: seconds of a factorisation's column.
    """

    seconds: NDArray[np.float64]
    flop: NDArray[np.float64]
    byte: NDArray[np.float64]
    cached: NDArray[np.float64]
    cache_bytes: NDArray[np.float64]
    adds: NDArray[np.bool_]
    column: NDArray[np.float64]

    def take(
        self, flops: NDArray[np.float64], moved: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return what operators take on the device, and which of them compute most of the time.

        A factorisation on a GPU goes through its columns one after the other; a square matrix of n columns
        that is read with a right side and written moves about 12 n^2 bytes.
        """
        computing = flops * self.flop
        inside = np.minimum(moved, self.cache_bytes)  # what exceeds the cache goes to memory
        moving = inside * self.cached + (moved - inside) * self.byte
        together = np.where(self.adds, computing + moving, np.maximum(computing, moving))
        return self.seconds + together + self.column * np.sqrt(moved / 12), computing > moving


def pace_of(
    profile: HardwareProfile,
    kinds: Sequence[tuple[str, int, str]],
    places: NDArray[np.int64],
    *,
    on_gpu: bool,
) -> Pace:
    """Return the pace of operators.

    Args:
        profile: of the device.
        kinds: (name, kind, dtype) of each kind of operator.
        places: index into `kinds` of each operator.
        on_gpu: whether factorisations wait for each of their columns.

    Raises:
        UnsupportedError: an operator multiplies in a dtype of which the profile has no speed.
    """
    rows = []
    for name, kind, dtype in kinds:
        sort = sort_of(name, kind)
        speed = speeds(profile, sort, dtype, name)
        known = bool(speed.cached_bytes_per_second and speed.bytes_per_second and speed.cache_bytes)
        byte = 1 / speed.bytes_per_second if speed.bytes_per_second else 0.0
        rows.append(
            (
                speed.seconds,
                1 / speed.flops_per_second if speed.flops_per_second else 0.0,
                byte,
                1 / (speed.cached_bytes_per_second or 1) if known else byte,
                float(speed.cache_bytes or 0) if known else 0.0,
                float(speed.adds),
                _column_seconds(name) if on_gpu and sort is Sort.DECOMPOSITION else 0.0,
            )
        )
    table = np.array(rows, dtype=np.float64).reshape(-1, 7)[places]
    seconds, flop, byte, cached, cache_bytes, adds, column = np.ascontiguousarray(table.T)
    return Pace(seconds, flop, byte, cached, cache_bytes, adds.astype(bool), column)


def _column_seconds(name: str) -> float:
    sweeps = next((times for part, times in _SWEEPS.items() if part in name), 1.0)
    return sweeps * GENERIC.column_seconds
