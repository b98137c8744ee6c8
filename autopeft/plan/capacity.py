"""Capacity: models x devices x methods, and what each takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from autopeft.cost.money import Cost, Tariff
from autopeft.cost.spread import MOST_DEVICES, Sharding, Spread
from autopeft.errors import InputError
from autopeft.message import Message
from autopeft.plan.answer import Memory
from autopeft.plan.question import USUAL_EPOCHS, read_way
from autopeft.units import HOURS_A_WEEK

USUAL_DEVICES = (
    *("t4", "l4", "a10g", "rtx-4090", "l40s", "a100-40gb", "a100-80gb", "h100-sxm", "h200", "b200"),
)
USUAL_METHODS = ("lora", "qlora", "full")


class Way(Message):
    """A method with the quantisation of its base: "lora", "qlora", "dora+nf4"."""

    name: str
    method: str
    quantization: str = "none"

    @classmethod
    def read(cls, text: str) -> Way:  # type: ignore[override]
        """Read a way to train as people write it."""
        name = text.strip().lower()
        method, quantization = read_way(name)
        return cls.build(name=name, method=method, quantization=quantization or "none")


def _read_way(given: object) -> object:
    return Way.read(given) if isinstance(given, str) else given


NamedWay = Annotated[Way, BeforeValidator(_read_way, json_schema_input_type=str | Way)]


class Demand(Message):
    """What shall be trained, and on what it may be.

    Attributes:
        ways: how to train; each may be given by its name, such as "qlora".   gpus: devices by name.
        counts: numbers of devices that share one training; all that share use `sharding`.
        batch_size: rows that each device takes at once, fewer where they do not fit.
        loop: which training loop runs the step ("autopeft", "trainer", "trl", ...).
        examples: rows of one training.   epochs: passes over them.
        runs_per_week: how many such trainings a fleet shall do.
        utilisation: share of the week in which a fleet's devices can be kept busy.
    """

    models: tuple[str, ...] = Field(min_length=1)
    ways: tuple[NamedWay, ...] = Field(default=tuple(map(Way.read, USUAL_METHODS)), min_length=1)
    gpus: tuple[str, ...] = Field(default=USUAL_DEVICES, min_length=1)
    counts: tuple[int, ...] = Field(default=(1,), min_length=1)
    sharding: Sharding = "ddp"
    offload: bool = False
    seq_len: int | None = Field(default=None, ge=1)
    rank: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=16, ge=1)
    grad_accum: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    loop: str = "autopeft"
    examples: int = Field(default=10_000, ge=1)
    epochs: float = Field(default=USUAL_EPOCHS, gt=0)
    tariff: Tariff = Tariff()
    runs_per_week: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    utilisation: float = Field(default=0.8, gt=0, le=1)

    @classmethod
    def of(
        cls,
        *,
        models: Sequence[str],
        methods: Sequence[str] | None = None,
        gpus: Sequence[str] | None = None,
        tokens: int | None = None,
        price: float | None = None,
        provider: str | None = None,
        grid_factor: float | None = None,
        **rest: Any,
    ) -> Self:
        """Make a demand as people write it: ways by name, usual methods and devices, tokens for examples.

        Args:
            models: by name.   methods: such as "lora" and "dora+nf4"; None takes the usual ones.
            gpus: by name; None takes usual ones.
            tokens: instead of `examples`.
            price, provider, grid_factor: see `Tariff`.
            rest: other fields; None takes the default.

        Raises:
            InputError: a field is unknown, invalid or said twice.
        """
        fields = {name: value for name, value in rest.items() if value is not None}
        if tokens is not None:
            if "examples" in fields:
                raise InputError(
                    "--tokens and --examples both say how much is trained on; leave out one of them."
                )
            fields["examples"] = rows_of(tokens, fields.get("seq_len"))
        return cls.build(
            models=tuple(models),
            **({"ways": tuple(methods)} if methods else {}),
            **({"gpus": tuple(gpus)} if gpus else {}),
            tariff={"price": price, "provider": provider, "grid_factor": grid_factor},
            **fields,
        )

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if not all(1 <= count <= MOST_DEVICES for count in self.counts):
            raise ValueError(
                f"gpus must be 1 to {MOST_DEVICES}, the most of one machine, but got {self.counts}"
            )
        return self

    @property
    def words(self) -> str:
        """What is trained of each model, in a line."""
        rows = f"{self.examples:,} examples" + (f" x {self.epochs:g} epochs" if self.epochs != 1 else "")
        length = f" of {self.seq_len} tokens" if self.seq_len else ""
        words = f"{rows}{length}, at most {self.batch_size} rows a device at once"
        words += f" x {self.grad_accum}" if self.grad_accum > 1 else ""
        recomputed = "" if self.gradient_checkpointing else "no "
        return f"{words}, {recomputed}gradient checkpointing, loop {self.loop}"

    def spread(self, count: int) -> Spread:
        """Return how so many devices share a training."""
        single = count == 1 and not self.offload
        return Spread.build(
            gpus=count, sharding="none" if single else self.sharding, offload=self.offload and not single
        )


class Fleet(Message):
    """How many devices do so many trainings a week.

    Attributes:
        at_once: trainings that run side by side.   gpus: devices of all of them.
        busy_hours: hours a week that one training after the other would take.
        usd_per_week: rented for the busy hours only; None where no price is known.
    """

    at_once: int
    gpus: int
    busy_hours: float
    usd_per_week: float | None


class Cell(Message):
    """One model, trained in one way on one kind of device.

    Attributes:
        fits: None where it cannot be told, as `reason` says.
        max_batch: rows that fit on each device; `batch` is what the rest is of.
        memory, limit_bytes: of one device.
        lower_seconds, upper_seconds: bounds of a step; `low_hours` and `high_hours` the 90 % band of a run.
        tokens_per_second: of all devices together, padding included.
        on_front: nothing else for this model is both faster and cheaper.
    """

    model: str
    way: str
    gpu: str
    spread: Spread
    fits: bool | None
    reason: str | None = None
    batch: int | None = None
    max_batch: int | None = None
    tokens: int | None = None
    memory: Memory | None = None
    limit_bytes: int | None = None
    step_seconds: float | None = None
    lower_seconds: float | None = None
    upper_seconds: float | None = None
    bound: str | None = None
    tokens_per_second: float | None = None
    hours: float | None = None
    low_hours: float | None = None
    high_hours: float | None = None
    cost: Cost | None = None
    cost_reason: str | None = None
    fleet: Fleet | None = None
    on_front: bool = False

    @property
    def device(self) -> str:
        """Name the devices: "l4", "4 x l4 fsdp"."""
        return self.gpu if self.spread.alone else f"{self.spread.gpus} x {self.gpu} {self.spread.sharding}"

    @property
    def usd(self) -> float | None:
        """What the run costs."""
        return self.cost.usd if self.cost else None


class Capacity(Message):
    """The answer to a demand: a cell for each model, way and device, in that order.

    Attributes:
        configurations: what each way adapts, with the ranks and targets that nobody asked for, by its name.
    """

    demand: Demand
    cells: tuple[Cell, ...]
    configurations: dict[str, str] = {}

    @property
    def fitting(self) -> tuple[Cell, ...]:
        """Cells that fit and whose time is known."""
        return tuple(cell for cell in self.cells if cell.fits and cell.hours is not None)

    def cheapest(self, model: str) -> Cell | None:
        """Return what trains a model at the lowest cost; of equals the faster."""
        paid = [cell for cell in self.fitting if cell.model == model and cell.usd is not None]
        return min(paid, key=lambda cell: (cell.usd or 0.0, cell.hours or 0.0), default=None)

    def fastest(self, model: str) -> Cell | None:
        """Return what trains a model in the shortest time; of equals the cheaper."""
        ours = [cell for cell in self.fitting if cell.model == model]
        return min(
            ours,
            key=lambda cell: (cell.hours or 0.0, math.inf if cell.usd is None else cell.usd),
            default=None,
        )


def rows_of(tokens: int, seq_len: int | None) -> int:
    """Return how many rows hold so many tokens.

    Raises:
        InputError: not even one row does, or nobody said how long a row is.
    """
    if seq_len is None:
        raise InputError("tokens are counted in rows: give --seq-len too.")
    if tokens < seq_len:
        raise InputError(f"tokens must be at least those of one row, {seq_len}, but got {tokens}.")
    return round(tokens / seq_len)


def fleet_of(cell_hours: float, usd: float | None, demand: Demand, gpus: int) -> Fleet | None:
    """Return the fleet that does the demanded trainings, None where none are demanded a week."""
    runs = demand.runs_per_week
    if runs is None:
        return None
    busy = runs * cell_hours
    at_once = max(1, math.ceil(busy / (HOURS_A_WEEK * demand.utilisation)))
    return Fleet(
        at_once=at_once,
        gpus=at_once * gpus,
        busy_hours=busy,
        usd_per_week=None if usd is None else runs * usd,
    )


def with_front(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    """Mark, for each model, the cells that no other is both faster and cheaper than."""
    marked: set[int] = set()
    for model in {cell.model for cell in cells}:
        ranked = sorted(
            (cell.hours, cell.usd, place)
            for place, cell in enumerate(cells)
            if cell.model == model and cell.fits and cell.hours is not None and cell.usd is not None
        )
        lowest = math.inf
        for _, usd, place in ranked:
            if usd < lowest:
                marked.add(place)
                lowest = usd
    return tuple(cell.model_copy(update={"on_front": place in marked}) for place, cell in enumerate(cells))
