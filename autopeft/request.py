"""Request: what the user asked for; defaults, file and flags merge here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from autopeft.cost.estimate import Objective
from autopeft.cost.spread import MOST_DEVICES, Sharding
from autopeft.errors import ConfigError
from autopeft.message import Message
from autopeft.plan.budget import Budget, Preference
from autopeft.workload.dataset import Task

Demo = Literal["classification", "sft"]
SearcherName = Literal["freeze-thaw", "tpe", "gp", "nsga2", "random", "grid"]
FRONT_SEARCHERS: tuple[SearcherName, ...] = ("freeze-thaw", "nsga2")
DEMOS: dict[Demo, dict[str, Any]] = {
    "classification": {
        "budget": {"gpu_mem": "4GB", "time": "5min", "trials": 8},
        "train_rows": 1200,
        "epochs": 2,
        "seq_len": 64,
    },
    "sft": {
        "budget": {"gpu_mem": "8GB", "time": "10min", "trials": 8},
        "train_rows": 240,
        "epochs": 1,
        "batch_size": 4,
        "seq_len": 96,
    },
}
"""What a demo takes where the user says nothing: sizes that two CPU cores can do in minutes."""
CONFIG_FILE = Path("autopeft.yaml")


Remembered = Literal["all", "shipped", "none"]


class Request(Message):
    """One request to any stage.

    Attributes:
        model: catalogue name, local directory or config.json, or hub id.
        data: CSV, JSONL or Parquet file of training rows, a directory (class folders of images or sounds, a
            saved dataset, Parquet shards) or a hub id.   test_data: the same for the test rows.
        columns: which column plays "text", "image", "audio", "label", "prompt" or "completion"; the rest is
            guessed.
        demo: run on what ships inside packages instead of `model` and `data`.
        gpu: a profile by name to plan for; None is this machine.
        space: a search space by name or file.
        prefer: which of several configurations within noise of the best wins: the best, the smallest or the
            fastest to train.
        front: a cost; the search is then for the front of score against it, not for the best score alone.
        searcher: "freeze-thaw" (see `search/freeze_thaw.py`), or what proposes to successive halving.
        experience: what the search begins with: what earlier trainings of this workspace's studies and those
            that come with autopeft say, what the latter say alone, or nothing.
        refit: a run trains the winner once more before it exports it, on the validation rows too.
        seq_len: length limit of a row in tokens; None takes the space's.
        train_rows: use at most this many training rows.
        examples: without data: how many rows to plan for.
        gpus, sharding, offload: how a planned training is spread over devices, see `Spread`.
        price: dollars an hour of one device, 0 for one's own; None takes the lowest that is listed, of
            `provider` if given.
        grid_factor: kg of CO2 a kWh.
        workspace: directory that studies are written to.
        study: name of the study; None makes one up from model and data.
        resume: go on with the study of that name.
        address: Ray cluster to train on, `auto` or HOST:PORT; None is this machine.
        storage: URL of the database that holds the study; None is a file in its folder.
        mlflow: tracking server or database; None is a file in the workspace.
    """

    model: str | None = None
    data: str | None = None
    test_data: str | None = None
    task: Task | None = None
    columns: dict[str, str] = {}
    demo: Demo | None = None
    gpu: str | None = None
    space: str = "quick"
    searcher: SearcherName = "freeze-thaw"
    prefer: Preference = "quality"
    front: Objective | None = None
    experience: Remembered = "all"
    refit: bool = False
    budget: Budget = Budget()
    seq_len: int | None = Field(default=None, ge=1, le=2**24)
    batch_size: int | None = Field(default=None, ge=1, le=2**20)
    epochs: float | None = Field(default=None, gt=0, le=10**6)
    train_rows: int | None = Field(default=None, ge=1, le=2**40)
    examples: int | None = Field(default=None, ge=1, le=2**40)
    gpus: int | None = Field(default=None, ge=1, le=MOST_DEVICES)
    sharding: Sharding | None = None
    offload: bool = False
    price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    provider: str | None = None
    grid_factor: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**31)
    workspace: str = ".autopeft"
    study: str | None = None
    resume: bool = False
    address: str | None = None
    storage: str | None = None
    mlflow: str | None = None

    @model_validator(mode="after")
    def _front_is_searched(self) -> Self:
        if self.front is not None and self.searcher not in FRONT_SEARCHERS:
            raise ValueError(
                f"front is for the searchers {' and '.join(FRONT_SEARCHERS)}, but got front {self.front!r} "
                f"with searcher {self.searcher!r}: leave out one of the two"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _demo_defaults(cls, fields: Any) -> Any:
        demo = fields.get("demo") if isinstance(fields, dict) else None
        if not isinstance(demo, str) or demo not in DEMOS or fields.get("resume"):
            return fields
        usual = DEMOS[demo]
        budget = fields.get("budget") or {}
        if not isinstance(budget, dict | Budget):
            return fields
        given = budget if isinstance(budget, dict) else dict(budget)
        limits = usual["budget"] | {name: value for name, value in given.items() if value is not None}
        return usual | fields | {"budget": limits}


def merge(file: Path | None, flags: Mapping[str, Any]) -> Request:
    """Merge defaults, a configuration file and flags (the later wins) into a request.

    Args:
        file: a YAML file with the fields of `Request`; None reads `autopeft.yaml` if there is one.
        flags: fields given on the command line; None values are left out. `budget` fields go under
            "budget".

    Raises:
        ConfigError: the file cannot be read or is no YAML mapping.
        InputError: a field is unknown or invalid.
    """
    fields = _read(file) if file else (_read(CONFIG_FILE) if CONFIG_FILE.exists() else {})
    for name, value in flags.items():
        if isinstance(value, Mapping):
            before = fields.get(name) or {}
            if not isinstance(before, Mapping):
                raise ConfigError(f"{name} must be a mapping of its fields, but got {before!r}.")
            given = {key: part for key, part in value.items() if part is not None}
            fields[name] = {**before, **given}
        elif value is not None:
            fields[name] = value
    return Request.build(**fields)


def _read(file: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{file} cannot be read: {reason}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{file} is no valid YAML{where}: {getattr(error, 'problem', error)}.") from None
    if not isinstance(content, dict) and content is not None:
        raise ConfigError(f"{file} must hold a mapping of fields, but holds a {type(content).__name__}.")
    return {str(key): value for key, value in (content or {}).items()}
