"""TraceRequest: what a trace depends on, and nothing else. Torch-free."""

from __future__ import annotations

import hashlib
import json
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from autopeft.cost.loops import LOOPS, Loop
from autopeft.cost.pattern import PATTERN_FORMAT
from autopeft.cost.tape import Target
from autopeft.message import Message
from autopeft.methods.heads import head_family
from autopeft.methods.quantization.schemes import find_quantization
from autopeft.methods.registry import virtual_tokens
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.tasks import TASKS, Task

# A tape is as good as the code that it ran; these decide what is run and what is written down.
_SOURCES = (
    *("methods", "space/optimizers.py", "train/step.py", "train/optimizers.py", "train/low_rank.py"),
    *("train/mezo.py", "train/losses.py", "train/fused_loss.py", "train/head.py"),
    *("cost/loops.py", "cost/tape.py", "cost/pattern.py", "cost/tracing"),
)
# Lengths at which a model changes its ways: beyond a window attention gets another mask.
_THRESHOLDS = (
    "sliding_window",
    "attention_chunk_size",
    "local_attention",
    "original_max_position_embeddings",
)
_PARTS = ("text_config", "rope_scaling", "rope_parameters")
# Methods whose every size is a polynomial of the rank, of first degree.
_LINEAR_IN_RANK = ("lora", "rslora", "dora")
_ALIGNED = 8
# The knob of autopeft's own prefixes.
_PREFIX = "prefix"
# What a loop says that no trace depends on.
_NO_TRACE = {
    *("name", "stack", "source", "empties_cache_every", "sorts_batches", "warms_allocator"),
    *("optimizer", "loss", "rows_padded", "below", "above"),
}
_ENDLESS = 1 << 30
# Twice the tokens of an image of 448 x 448 pixels, less one (`batches.py`).
_LONG_ENOUGH = 511


class TraceRequest(Message):
    """One pattern to trace.

    Attributes:
        rows: rows of a micro-batch.
        length: tokens of the longest row.
        target_length: tokens of the longest that an encoder-decoder writes; None: as long as the row.
        padded: whether batches hold padding.
        loop: what happens around the step.
        general: trace at other shapes too, so that one pattern serves all shapes of this kind;
            otherwise it serves these rows, this length and this rank only.
    """

    base: BaseModel
    candidate: Candidate
    task: Task
    labels: int
    rows: int
    length: int
    target: Target
    target_length: int | None = None
    padded: bool = True
    loop: Loop = LOOPS["autopeft"]
    general: bool = True

    @property
    def key(self) -> str:
        """A name shared by all requests that one pattern serves, and by no pattern of other code."""
        library = find_quantization(self.candidate.quantization).library
        made_by = versions() | ({} if library == "none" else {library: _installed(library)})
        return self._name({"versions": made_by, "code": _code_digest()})

    @property
    def shipped_name(self) -> str:
        """The name of the pattern that ships, whatever build of the libraries is installed.

        That it is still what this code traces is for a test to say.
        """
        return self._name({name: number.partition("+")[0] for name, number in versions().items()})

    @property
    def exact(self) -> TraceRequest:
        """The request for this very shape."""
        return self.model_copy(update={"general": False})

    @property
    def interval(self) -> tuple[int, int]:
        """Lengths above the first and up to the second are treated alike by the model."""
        kind = head_family(self.base.family, self.base.config.get("model_type", ""))
        if kind == "vision":
            return 0, _ENDLESS  # there are no tokens
        steps = sorted(
            _thresholds(self.base.config)
            | (_image_steps(self.base.config) if kind == "multimodal" else set())
        )
        below = max((step for step in steps if step < self.length), default=0)
        longest = self.base.max_length or _ENDLESS
        return below, min((step for step in steps if step >= self.length), default=longest)

    @property
    def aligned(self) -> bool | None:
        """Whether the length is a multiple of 8, where that matters: masks are padded to it."""
        masked = self.padded or _PREFIX in self.candidate.knobs  # which makes a mask where there is none
        return (self.length + added_tokens(self.candidate)) % _ALIGNED == 0 if masked else None

    @property
    def ranks(self) -> bool:
        """Whether the pattern serves other ranks."""
        plain = self.candidate.rank is not None and not {"rank_pattern", "bdlora", "use_bdlora"} & set(
            self.candidate.knobs
        )
        return self.general and plain and self.candidate.method in _LINEAR_IN_RANK

    def _parts(self) -> dict[str, Any]:
        training = self.candidate.training
        if self.general:
            shape: tuple[Any, ...] = (self.rows == 1, self.aligned, self.interval)
        else:
            shape = (self.rows, self.length)
        free = {"batch_size": 1, "max_length": 1, "grad_accum": min(2, training.grad_accum)}
        candidate = self.candidate.model_copy(
            update={
                "training": training.model_copy(update=free),
                "rank": 1 if self.ranks else self.candidate.rank,
            }
        )
        said = {} if self.target_length is None else {"target_length": self.target_length}
        return said | {
            "candidate": candidate.footprint,
            "shape": shape,
            "task": self.task,
            "labels": self.labels if TASKS[self.task].new_head else 0,
            "target": self.target,
            "padded": self.padded,
            "loop": self.loop.model_dump(mode="json", exclude=_NO_TRACE, exclude_defaults=True),
            "general": self.general,
            "format": PATTERN_FORMAT,
        }

    def _name(self, made_by: dict[str, Any]) -> str:
        parts = json.dumps([self._parts(), made_by], sort_keys=True)
        return hashlib.sha256(f"{_config_digest(_Same(self.base.config))} {parts}".encode()).hexdigest()


def added_tokens(candidate: Candidate) -> int:
    """Return how many tokens a candidate adds to each row, as far as formulas of lengths must know.

    Prefixes lengthen keys only; formulas of the row's own length hold where they are whole blocks of masks.
    """
    added = virtual_tokens(candidate)
    keys_only = candidate.method == "prefix_tuning" or _PREFIX in candidate.knobs
    return 0 if keys_only and added % _ALIGNED == 0 else added


def has_odd_prefix(candidate: Candidate) -> bool:
    """Say whether keys are longer than rows by no whole block, of which no formula is known."""
    return _PREFIX in candidate.knobs and virtual_tokens(candidate) % _ALIGNED != 0


class _Same:
    """A configuration that is equal to itself only, so that it can be looked up without being read."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.config is other.config

    def __hash__(self) -> int:
        return id(self.config)


@lru_cache(maxsize=64)
def _config_digest(same: _Same) -> str:
    """Return a configuration's digest; a base model is frozen, so it stays what it is."""
    return hashlib.sha256(json.dumps(same.config, sort_keys=True).encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Return the versions of the libraries that are traced."""
    return {name: version(name) for name in ("torch", "transformers", "peft")}


@cache
def _installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def _thresholds(config: dict[str, Any]) -> set[int]:
    found = {config[name] for name in _THRESHOLDS if isinstance(config.get(name), int)}
    for part in _PARTS:
        if isinstance(config.get(part), dict):
            found |= _thresholds(config[part])
    return found


def _image_steps(config: dict[str, Any]) -> set[int]:
    """Return the lengths from which on a row holds the usual image, which does not grow with it."""
    model_type = config.get("model_type")
    if model_type == "llava":
        vision = config.get("vision_config") or {}
        return {(vision.get("image_size", 336) // vision.get("patch_size", 14)) ** 2 + 2}
    return {_LONG_ENOUGH} if model_type == "qwen2_vl" else set()


@cache
def _code_digest() -> str:
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for source in _SOURCES:
        place = root / source
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return digest.hexdigest()
