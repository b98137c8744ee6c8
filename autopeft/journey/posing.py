"""From a Question to what the cost model is asked: model, candidate, workload, loop, device, limit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autopeft.cost.loops import Loop, find_loop
from autopeft.cost.money import Tariff
from autopeft.cost.spread import Spread, make_spread
from autopeft.errors import AutopeftError, InputError, UnknownNameError
from autopeft.files import THIS_MACHINE
from autopeft.hardware.catalog import load_profile, profile_folders
from autopeft.hardware.prices import price_of
from autopeft.hardware.profile import HardwareProfile
from autopeft.methods.heads import default_task
from autopeft.methods.quantization.schemes import find_quantization, normalise, training_needs
from autopeft.methods.registry import METHODS, complete, find_method
from autopeft.plan.question import USUAL_EPOCHS, Question
from autopeft.space.candidate import Candidate, Precision
from autopeft.space.optimizers import find_optimizer
from autopeft.workload.base_model import BaseModel
from autopeft.workload.batching import truncate
from autopeft.workload.dataset import Lengths, Task, Workload
from autopeft.workload.measuring import measure
from autopeft.workload.models import find_model
from autopeft.workload.tasks import USUAL_CLASSES, head_outputs

if TYPE_CHECKING:
    from autopeft.request import Request

ASSUMED_LENGTH = 512
ASSUMED_WITH_IMAGE = 2048
_NO_LIMIT = 2**50
_LONGEST_ROW = 2**20
_MOST_KNOWN = 1000
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A question in the words of the cost model.

    `limit_bytes` is what the device may be asked for, None where nothing was said of it; `guesses` are
    what had to be assumed already, `needs` what training takes that planning does not.
    """

    base: BaseModel
    candidate: Candidate
    workload: Workload
    loop: Loop
    profile: HardwareProfile
    limit_bytes: int | None = None
    guesses: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    spread: Spread = field(default_factory=Spread)
    tariff: Tariff = field(default_factory=Tariff)


@dataclass
class Poser:
    """Poses questions; models and devices are looked up once for all of them.

    `measured` returns the profile of this machine, which only a question about "this-machine" needs.
    """

    workspace: Path
    measured: Callable[[], HardwareProfile]
    _models: dict[str, BaseModel | AutopeftError] = field(default_factory=dict)
    _profiles: dict[str, HardwareProfile | AutopeftError] = field(default_factory=dict)

    def pose(self, question: Question) -> Posed:
        """Put a question in the words of the cost model.

        Raises:
            InputError: a name is unknown, or something does not suit the model.
            UnsupportedError: the question is valid but cannot be answered.
        """
        base = self.model(question.model)
        price_of("", provider=question.provider)
        task: Task = question.task or default_task(base.family, base.config.get("model_type", ""))
        profile, limit = self._device(question)
        loop = loop_of(question)
        length = _length_limit(question, base)
        lengths = _lengths(question, length)
        if question.padding is False or (question.lengths and lengths.percentiles[0] == lengths.longest):
            loop = loop.model_copy(update={"rows_padded": False})  # said, not assumed
        candidate = _candidate(question, length, loop, profile.usual_precision)
        _require_layers(candidate, base)
        return Posed(
            base=base,
            candidate=candidate,
            workload=Workload(
                task=task,
                lengths=lengths,
                rows=question.examples or 0,
                labels=max(1, head_outputs(task, USUAL_CLASSES)),
            ),
            loop=loop,
            profile=profile,
            limit_bytes=limit,
            guesses=_other_versions(question),
            needs=_to_train(candidate, base),
            spread=make_spread(question.gpus, question.sharding, offload=question.offload),
            tariff=Tariff(price=question.price, provider=question.provider, grid_factor=question.grid_factor),
        )

    def model(self, name: str) -> BaseModel:
        """Find a model.

        Raises:
            InputError: it is unknown, or cannot be read.
        """
        return _once(self._models, name, find_model)

    def way(self, method: str, quantization: str) -> None:
        """Check the names of a method and a quantisation.

        Raises:
            UnknownNameError: one of them is unknown.
        """
        find_method(_spelled(method, METHODS))
        normalise(quantization)

    def _device(self, question: Question) -> tuple[HardwareProfile, int | None]:
        """Return the device and how many of its bytes may be taken."""
        if question.gpu is None:
            from autopeft.journey.inputs import any_gpu

            memory = question.gpu_mem
            name = f"any-gpu {memory}"
            profile = _once(self._profiles, name, lambda _: any_gpu(memory or _NO_LIMIT))
            return profile, memory
        profile = _once(self._profiles, question.gpu, self._load)
        return profile, min(question.gpu_mem or profile.usable_bytes, profile.usable_bytes)

    def _load(self, name: str) -> HardwareProfile:
        if _squeezed(name) == _squeezed(THIS_MACHINE):
            return self.measured()
        return load_profile(name, profile_folders(self.workspace))


def described_rows(request: Request) -> dict[str, Any]:
    """Return the fields of a question that a request's data decides: its rows, their lengths and the task.

    Raises:
        InputError: the model or the data cannot be read.
    """
    from autopeft.workload.readers import read_dataset

    base = find_model(request.model or "")
    dataset = read_dataset(str(request.data), task=request.task, columns=request.columns, seed=request.seed)
    limit = request.seq_len or base.max_length or _LONGEST_ROW
    lengths = measure(dataset, base, limit)
    return {"lengths": lengths, "task": dataset.task, "examples": len(dataset.train)}


def loop_of(question: Question) -> Loop:
    """Return the loop of a question, with the details that it sets otherwise.

    Raises:
        InputError: there is no such loop or detail, or a detail has the wrong type.
    """
    loop = find_loop(question.loop)
    fixed = {"name", "stack", "source", "optimizer", "loss", "below", "above"}
    for name in question.details:
        if name not in Loop.model_fields or name in fixed:
            raise UnknownNameError("detail of a loop", name, set(Loop.model_fields) - fixed)
    return Loop.build(**{**loop.model_dump(), **question.details}) if question.details else loop


def _once(known: dict[str, T | AutopeftError], name: str, find: Callable[[str], T]) -> T:
    """Look something up once; what failed fails again without another try."""
    if name not in known:
        if len(known) >= _MOST_KNOWN:  # what is asked for years must not fill the memory
            known.clear()
        try:
            known[name] = find(name)
        except AutopeftError as error:
            known[name] = error
    found = known[name]
    if isinstance(found, AutopeftError):
        raise found
    return found


def _length_limit(question: Question, base: BaseModel) -> int:
    """Return to how many tokens rows are truncated."""
    longest = base.max_length
    if question.seq_len is not None:
        if longest is not None and question.seq_len > longest:
            raise InputError(
                f"seq_len must be at most {longest} for {base.name}, but got {question.seq_len}."
            )
        return question.seq_len
    assumed = ASSUMED_WITH_IMAGE if base.family == "multimodal" else ASSUMED_LENGTH
    usual = question.lengths.longest if question.lengths else assumed
    return min(usual, longest or usual)


def _lengths(question: Question, limit: int) -> Lengths:
    """Return the rows' lengths; where padding is given they are made to have some, or none."""
    lengths = truncate(question.lengths or Lengths.constant(limit), limit)
    longest = lengths.longest
    if question.padding is False:
        return Lengths.constant(longest)
    if question.padding and lengths.percentiles[0] >= longest > 1:
        return Lengths(percentiles=(longest - 1, *(longest,) * 100), mean=longest)
    return lengths


def _candidate(question: Question, length: int, loop: Loop, precision: Precision) -> Candidate:
    method = _spelled(question.method, METHODS)
    find_method(method)
    optimizer = find_optimizer(question.optimizer or loop.optimizer).name
    candidate = Candidate.build(
        method=method,
        rank=question.rank,
        targets=question.targets,
        layers=question.layers,
        quantization=normalise(question.quantization),
        knobs=question.knobs,
        training={
            "batch_size": question.batch_size,
            "grad_accum": question.grad_accum,
            "epochs": question.epochs or USUAL_EPOCHS,
            "max_length": length,
            "precision": question.precision or precision,
            "gradient_checkpointing": question.gradient_checkpointing,
            "optimizer": optimizer,
            "attention": question.attention,
            "loss": question.loss or loop.loss,
            "packing": question.packing,
        },
    )
    return complete(candidate)


def _spelled(name: str, known: Iterable[str]) -> str:
    """Return the known name that differs in case, dashes and underscores only; else the name."""
    return next((one for one in known if _squeezed(one) == _squeezed(name)), name)


def _squeezed(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name.lower())


def _require_layers(candidate: Candidate, base: BaseModel) -> None:
    """Refuse layers that the model does not have, before anything is traced."""
    layers = candidate.layers
    if base.layers == 0 or base.family not in ("decoder", "encoder"):
        return
    if isinstance(layers, str) and layers.startswith("switches:"):
        return
    if isinstance(layers, str):
        bounds = [int(end) for end in re.findall(r"\d+", layers)]
        if bounds and bounds[0] > bounds[-1]:
            raise InputError(f"a range of layers must start at its lower end, but got {layers!r}.")
    else:
        bounds = list(layers)
    if bounds and max(bounds) >= base.layers:
        raise InputError(
            f"layers must lie in 0 to {base.layers - 1} for {base.name}, but got {candidate.layers!r}."
        )


def _to_train(candidate: Candidate, base: BaseModel) -> tuple[str, ...]:
    """Say what training needs that planning does not, and what it cannot give."""
    if find_method(candidate.method).exports == "none":
        return (f"{candidate.method} trains, but peft does not save it so that it loads again",)
    stored = (base.config.get("quantization_config") or {}).get("quant_method")
    needed = training_needs(find_quantization(candidate.quantization), base.name, stored)
    return (needed,) if needed else ()


def _other_versions(question: Question) -> tuple[str, ...]:
    """Say where the stack that will train is not the one that is traced."""
    from importlib.metadata import PackageNotFoundError, version

    guesses = []
    for name, wanted in (question.versions or {}).items():
        try:
            here = version(name)
        except (PackageNotFoundError, ValueError):
            here = "none"
        if here != wanted:
            guesses.append(f"{name} {wanted} taken to do what {here} does")
    return tuple(guesses)
