"""Inputs: a request made concrete: model, data, search space, device."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autopeft.errors import InputError, UnsupportedError
from autopeft.hardware.catalog import load_profile, profile_folders
from autopeft.hardware.profile import HardwareProfile, Provenance
from autopeft.message import Message
from autopeft.methods.heads import default_task, head_family
from autopeft.methods.registry import DEFAULT, METHODS, find_method, learns, require_head
from autopeft.request import Request
from autopeft.space.candidate import Candidate, Scalar
from autopeft.space.reader import load_space
from autopeft.space.search_space import SearchSpace, fix, only_methods
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.dataset import Dataset, Lengths, Medium, Task, Workload
from autopeft.workload.measuring import measure
from autopeft.workload.models import find_model
from autopeft.workload.senses import processor_place, require_medium
from autopeft.workload.tasks import USUAL_CLASSES, head_outputs

ASSUMED_LENGTH = 512
ASSUMED_WITH_IMAGE = 2048
LONGEST_SOUND = 1_500
"""Places of an encoder of sounds, 30 seconds at the usual 50 a second: what is longer is cut there."""
_NO_DATA = "training needs data: give --data DATA (CSV, JSONL, Parquet or a directory), or try --demo."

PROFILING = "finding this machine's profile, or measuring it"
"""What is being done while nobody knows yet whether there is a profile."""

_MEDIA: dict[Family, Medium] = {"vision": "image", "speech": "sound"}
"""What models of a family take, where it is no text."""
_NO_PROCESSOR = "the model has no preprocessor_config.json: its input is scaled as models of its kind have it"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a request names, loaded. `dataset` is None where only the architecture is planned for."""

    base: BaseModel
    dataset: Dataset | None
    workload: Workload
    space: SearchSpace
    baseline: Candidate


class Grounds(Message):
    """What a plan takes of a request's inputs: all but the rows themselves."""

    base: BaseModel
    workload: Workload
    space: SearchSpace
    baseline: Candidate


def load_grounds(request: Request, profile: HardwareProfile) -> Grounds:
    """Load what a plan takes, and forget the rows.

    Raises:
        InputError: something is missing, unknown or malformed.
    """
    found = load_inputs(request, profile)
    return Grounds(base=found.base, workload=found.workload, space=found.space, baseline=found.baseline)


def load_inputs(
    request: Request, profile: HardwareProfile, loaded: tuple[BaseModel, Dataset | None] | None = None
) -> Inputs:
    """Load model, data and search space.

    Args:
        loaded: model and data where they were loaded before.

    Raises:
        InputError: something is missing, unknown or malformed.
    """
    base, dataset = loaded or load_data(request)
    task: Task = (
        dataset.task
        if dataset
        else request.task or default_task(base.family, base.config.get("model_type", ""))
    )
    space = load_space(request.space)
    for method in space.methods:
        find_method(method)
    settings = settings_of(request, profile, space)
    space = fix(space, {f"training.{name}": value for name, value in settings.items()})
    require_head(base, task)
    able = [spec.name for spec in METHODS.values() if learns(spec, base.family, task)]
    if not able:
        raise UnsupportedError(f"no method works on {base.family} models for {task} yet ({base.name}).")
    space = only_methods(space, able)
    fixed = {
        name.removeprefix("training."): value
        for name, value in space.fixed.items()
        if name.startswith("training.")
    }
    training = DEFAULT.training.model_copy(update=fixed)
    assumed = assumed_length(base)
    if base.family == "multimodal":
        needed = max(assumed, training.max_length)
    elif dataset is not None and dataset.medium == "sound":
        needed = measure(dataset, base, LONGEST_SOUND).longest
    else:
        needed = training.max_length
    if needed != training.max_length and request.seq_len is None:
        training = training.model_copy(update={"max_length": needed})
        space = fix(space, {"training.max_length": needed})
    if base.max_length is not None and training.max_length > base.max_length:
        if request.seq_len is not None:
            raise InputError(
                f"seq_len must be at most {base.max_length} for {base.name}, but got {request.seq_len}."
            )
        training = training.model_copy(update={"max_length": base.max_length})
        space = fix(space, {"training.max_length": base.max_length})
    return Inputs(
        base=base,
        dataset=dataset,
        workload=_workload(task, base, dataset, request, training.max_length),
        space=space,
        baseline=DEFAULT.model_copy(update={"training": training}),
    )


def settings_of(request: Request, profile: HardwareProfile, space: SearchSpace) -> dict[str, Scalar]:
    """Return the training settings that a request, or its device, decides for all candidates."""
    said = {domain.field for domain in space.domains} | set(space.fixed)
    usual = "fp32" if profile.device == "cpu" else "bf16"  # the trainer does not scale losses
    given: dict[str, Scalar | None] = {
        "max_length": request.seq_len,
        "batch_size": request.batch_size,
        "epochs": request.epochs,
        "precision": None if "training.precision" in said else usual,
    }
    return {name: value for name, value in given.items() if value is not None}


def assumed_length(base: BaseModel) -> int:
    """Return to how many tokens rows are taken to be cut where nobody says so; an image takes hundreds."""
    return ASSUMED_WITH_IMAGE if base.family == "multimodal" else ASSUMED_LENGTH


def target_profile(request: Request, this_machine: HardwareProfile | None) -> HardwareProfile:
    """Return the device to plan for: the one named, this machine's, or any GPU of the memory given.

    Raises:
        InputError: a time limit is given for a GPU whose speed nobody knows.
    """
    if request.gpu is not None:
        return load_profile(request.gpu, profile_folders(Path(request.workspace)))
    if this_machine is not None:
        return this_machine
    if request.budget.gpu_mem is None:
        raise InputError("a plan needs a device: give --gpu-mem 16GB, or --gpu NAME (`autopeft gpus`).")
    if request.budget.time is not None:
        raise InputError(
            "a time limit needs a device whose speed is known: add --gpu NAME (`autopeft gpus`)."
        )
    return any_gpu(request.budget.gpu_mem)


def any_gpu(memory: int) -> HardwareProfile:
    """Return an NVIDIA GPU of which only the memory is known; its speeds are those of the slowest listed."""
    slowest = load_profile("t4")
    return slowest.model_copy(
        update={
            "name": "any-gpu",
            "device_name": "any NVIDIA GPU with this memory",
            "total_bytes": memory,
            "usable_bytes": memory,
            "matmul_flops": {"bfloat16": slowest.matmul_flops["float16"]} | slowest.matmul_flops,
            "provenance": Provenance(
                kind="assumed",
                source="memory as given, speed unknown",
                date=datetime.now(UTC).date().isoformat(),
            ),
        }
    )


def require_dataset(inputs: Inputs) -> Dataset:
    """Return the dataset.

    Raises:
        InputError: the request names none.
    """
    if inputs.dataset is None:
        raise InputError(_NO_DATA)
    return inputs.dataset


def require_data(request: Request) -> None:
    """Check that a request names data, before anything takes time.

    Raises:
        InputError: it names none.
    """
    if request.data is None and request.demo is None:
        raise InputError(_NO_DATA)


def load_data(request: Request) -> tuple[BaseModel, Dataset | None]:
    """Load the model and the data that a request names.

    Raises:
        InputError: something is missing, unknown or malformed.
    """
    if request.demo is not None:
        from autopeft.workload.demo import demo_dataset, demo_model

        if request.model or request.data:
            raise InputError("--demo brings its own model and data: leave out --model and --data.")
        return demo_model(request.demo), demo_dataset(
            request.demo, seed=request.seed, train_rows=request.train_rows
        )
    if request.model is None:
        raise InputError(
            "a base model is needed: give --model NAME, DIRECTORY or HUB_ID (`autopeft models`)."
        )
    base = find_model(request.model)
    if request.data is None:
        return base, None
    from autopeft.workload.readers import read_dataset

    dataset = read_dataset(
        request.data,
        task=request.task,
        columns=request.columns,
        test_path=request.test_data,
        seed=request.seed,
        train_rows=request.train_rows,
    )
    medium = _MEDIA.get(head_family(base.family, base.config.get("model_type", "")), "text")
    require_medium(base, dataset, medium)
    if dataset.medium == "sound" and dataset.task != "classification":
        raise UnsupportedError(
            f"sounds are trained on for classification so far, but {request.data} holds transcripts "
            f"({dataset.columns}): name a column of classes (--label-column, --task classification), or "
            "plan without --data."
        )
    if base.path is not None and medium != "text" and processor_place(base) is None:
        dataset = dataset.model_copy(update={"notes": (*dataset.notes, _NO_PROCESSOR)})
    return base, dataset


def _workload(
    task: Task, base: BaseModel, dataset: Dataset | None, request: Request, max_length: int
) -> Workload:
    if dataset is None:
        longest = request.seq_len or min(assumed_length(base), base.max_length or assumed_length(base))
        return Workload(
            task=task,
            lengths=Lengths.constant(longest),
            rows=request.examples or 0,
            labels=max(1, head_outputs(task, USUAL_CLASSES)),
        )
    from autopeft.workload.tokens import measure_targets

    return Workload(
        task=task,
        lengths=measure(dataset, base, max_length),
        rows=len(dataset.train),
        validation_rows=len(dataset.validation),
        targets=measure_targets(dataset, base, max_length),
        labels=max(1, dataset.outputs),
    )
