"""Domain: the values one field of a candidate may take, and when."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, ValidationError, model_validator

from autopeft.errors import InputError
from autopeft.message import Message, explain
from autopeft.space.candidate import Candidate, Scalar, Training

METHOD = "method"
MOST_LISTED = 1000
_SWITCHES = "switches:"
_FIELDS = frozenset(Candidate.model_fields) - {"knobs", "training"} | {
    f"training.{name}" for name in Training.model_fields
}


class Choice(Message):
    """A list of values.

    Attributes:
        default: the value to try first; None takes the first one.
    """

    choices: tuple[Scalar, ...] = Field(min_length=1)
    default: Scalar | None = None

    @model_validator(mode="after")
    def _distinct_and_known(self) -> Choice:
        if len(set(self.choices)) < len(self.choices):
            raise ValueError(f"`choices` must differ from each other, but got {list(self.choices)}")
        if self.default is not None and self.default not in self:
            raise ValueError(f"`default` must be one of {list(self.choices)}, but got {self.default!r}")
        return self

    @property
    def continuous(self) -> bool:
        """Whether values cannot be listed."""
        return False

    @property
    def typical(self) -> Scalar:
        """The value to try first."""
        return self.choices[0] if self.default is None else self.default

    @property
    def number(self) -> int:
        """How many values there are."""
        return len(self.choices)

    @property
    def values(self) -> tuple[Scalar, ...]:
        """All values in the order in which they were written."""
        return self.choices

    def __contains__(self, value: object) -> bool:
        """Say whether `value` may be chosen."""
        return value in self.choices


class Range(Message):
    """All numbers from `low` to `high`; whole numbers where both ends are whole.

    Attributes:
        log: spread evenly over orders of magnitude.
        step: distance of allowed values, counted from `low`.
        default: the value to try first; None takes the middle (the geometric one with `log`).
    """

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = Field(default=None, gt=0)
    default: int | float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low <= self.high or math.isinf(self.low) or math.isinf(self.high):
            raise ValueError(f"`low <= high` must hold, but got low={self.low}, high={self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"`low > 0` must hold with log, but got low={self.low}")
        if self.log and self.step is not None:
            raise ValueError("`log` and `step` exclude each other; leave out one of them")
        if self.whole and isinstance(self.step, float):
            raise ValueError(f"`step` must be whole between whole ends, but got step={self.step}")
        if self.default is not None and self.default not in self:
            raise ValueError(f"`default` must lie in the range, but got default={self.default}")
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def continuous(self) -> bool:
        """Whether values cannot be listed: every real number, or too many whole ones."""
        return self._grid == 0 or self._steps >= MOST_LISTED

    @property
    def number(self) -> int | None:
        """How many values there are; None for every real number of a range."""
        return None if self._grid == 0 else self._steps + 1

    @property
    def typical(self) -> int | float:
        """The value to try first."""
        if self.default is not None:
            return self.default
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        if self._grid == 0:
            return middle
        return self.low + self._grid * round((middle - self.low) / self._grid)

    @property
    def values(self) -> tuple[int | float, ...]:
        """All values in ascending order; only the typical one where they cannot be listed."""
        if self.continuous:
            return (self.typical,)
        return tuple(self.at(index) for index in range(self._steps + 1))

    def at(self, place: int) -> int | float:
        """Return a value by its place on the grid, counted from 0 at `low`."""
        return self.low + place * self._grid

    def place(self, value: Scalar) -> int:
        """Return the place of a value on the grid."""
        return round((float(value) - self.low) / self._grid)

    @property
    def top(self) -> int | float:
        """The largest value: `high`, or the last one on the grid below it."""
        return self.at(self._steps) if self._grid else self.high

    @property
    def _grid(self) -> int | float:
        return self.step or (1 if self.whole else 0)

    @property
    def _steps(self) -> int:
        return math.floor((self.high - self.low) / self._grid + 1e-9)

    def __contains__(self, value: object) -> bool:
        """Say whether `value` lies in the range and on its grid."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high or (self.whole and value != int(value)):
            return False
        steps = (value - self.low) / self._grid if self._grid else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-6)


class Switches(Message):
    """Every layer on or off by itself, but not all off: "switches:1011" of `Candidate.layers`.

    Attributes:
        switches: how many there are; those of a model's layers, or fewer that are spread over them.
        default: the value to try first; None takes all on.
    """

    switches: int = Field(ge=2, le=999)
    default: str | None = None

    @model_validator(mode="after")
    def _known(self) -> Switches:
        if self.default is not None and self.default not in self:
            raise ValueError(f"`default` must be {self.switches} times 1 or 0, but got {self.default!r}")
        return self

    @property
    def continuous(self) -> bool:
        """Whether values are too many to be listed."""
        return self.switches > math.log2(MOST_LISTED)

    @property
    def number(self) -> int:
        """How many values there are."""
        return (1 << self.switches) - 1

    @property
    def typical(self) -> str:
        """The value to try first."""
        return self.turned([True] * self.switches) if self.default is None else self.default

    @property
    def values(self) -> tuple[str, ...]:
        """All values, from all on; only the typical one where they are too many."""
        if self.continuous:
            return (self.typical,)
        every = itertools.product((True, False), repeat=self.switches)
        return tuple(self.turned(list(each)) for each in every if any(each))

    def turned(self, switches: Sequence[bool]) -> str:
        """Return the value that has these switches on."""
        return _SWITCHES + "".join("1" if each else "0" for each in switches)

    def switched(self, value: object) -> tuple[bool, ...]:
        """Return which switches a value has on."""
        return tuple(each == "1" for each in str(value).removeprefix(_SWITCHES))

    def __contains__(self, value: object) -> bool:
        """Say whether `value` is one of them."""
        on = self.switched(value)
        return len(on) == self.switches and any(on) and value == self.turned(on)


Allowed = Choice | Range | Switches


class Domain(Message):
    """The values one field of `Candidate` may take.

    Attributes:
        field: "method", "rank", "targets", "layers", "quantization", "knobs.NAME" or "training.NAME".
        when: values of fields further up under which the domain counts; always where empty.
    """

    field: str
    allowed: Allowed
    when: dict[str, tuple[Scalar, ...]] = {}

    @model_validator(mode="after")
    def _makes_candidates(self) -> Domain:
        allowed = self.allowed
        for value in (allowed.low, allowed.high) if isinstance(allowed, Range) else allowed.values:
            check_field(self.field, value)
        return self

    def counts(self, values: Mapping[str, Scalar]) -> bool:
        """Say whether the domain counts once the fields above it have these values."""
        return all(field in values and values[field] in wanted for field, wanted in self.when.items())

    def excludes(self, other: Domain) -> bool:
        """Say whether the two can never count at once."""
        shared = self.when.keys() & other.when.keys()
        return any(set(self.when[field]).isdisjoint(other.when[field]) for field in shared)

    @property
    def moves_cost(self) -> bool:
        """Whether memory or step time depend on the field (then footprints differ)."""
        return len({assemble({self.field: value}).footprint for value in self.allowed.values}) > 1


def check_field(field: str, value: Scalar) -> None:
    """Raise a ValueError where a candidate has no such field, or not with that value."""
    room, _, name = field.partition(".")
    if field not in _FIELDS and not (room == "knobs" and name):
        known = ", ".join(sorted(_FIELDS))
        raise ValueError(f"no field of a candidate is called {field!r}; there are knobs.NAME, {known}")
    try:
        assemble({field: value})
    except InputError as error:
        raise ValueError(str(error)) from None


def assemble(values: Mapping[str, Scalar]) -> Candidate:
    """Make a candidate from values by field name; a method left out is called "any".

    Raises:
        InputError: a value is not allowed for its field.
    """
    fields: dict[str, Any] = {METHOD: "any", "knobs": {}, "training": {}}
    for field, value in values.items():
        room, _, name = field.partition(".")
        if name:
            fields[room][name] = value
        else:
            fields[field] = value
    try:
        return Candidate(**fields)
    except ValidationError as error:
        raise InputError(explain(error, "Candidate")) from None


def value_of(candidate: Candidate, field: str) -> Scalar | None:
    """Return the value a candidate has in a field; None where it has none or a list."""
    room, _, name = field.partition(".")
    if room == "knobs":
        value = candidate.knobs.get(name)
    else:
        value = getattr(candidate.training, name) if name else getattr(candidate, field)
    return value if isinstance(value, bool | int | float | str) else None
