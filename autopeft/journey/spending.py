"""What a request may spend: the price of its device, and a cost model for several devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autopeft.cost.estimate import CostEstimate
from autopeft.cost.sharding import spread_over
from autopeft.cost.spread import Spread, make_spread
from autopeft.errors import AutopeftError, InputError, UnsupportedError
from autopeft.hardware.prices import Price, price_of, why_no_price
from autopeft.hardware.profile import HardwareProfile
from autopeft.plan.cost_model import CostModel
from autopeft.request import Request
from autopeft.space.candidate import Candidate
from autopeft.units import SECONDS_AN_HOUR
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Workload


class SpreadCostModel:
    """A `CostModel` whose estimates are those of each of several devices."""

    def __init__(self, alone: CostModel, spread: Spread) -> None:
        """Spread what `alone` estimates for one device."""
        self._alone, self._spread = alone, spread

    def estimate(
        self, base: BaseModel, candidate: Candidate, workload: Workload, profile: HardwareProfile
    ) -> CostEstimate:
        """Cost one candidate."""
        return spread_over(
            self._alone.estimate(base, candidate, workload, profile), self._spread, base, candidate, profile
        )

    def estimate_many(
        self,
        base: BaseModel,
        candidates: Sequence[Candidate],
        workload: Workload,
        profile: HardwareProfile,
        on_done: Callable[[int], None] | None = None,
    ) -> list[CostEstimate | AutopeftError]:
        """Cost many candidates, in their order."""
        alone = self._alone.estimate_many(base, candidates, workload, profile, on_done)
        return [
            self._spread_out(each, base, candidate, profile)
            for each, candidate in zip(alone, candidates, strict=True)
        ]

    def _spread_out(
        self,
        estimate: CostEstimate | AutopeftError,
        base: BaseModel,
        candidate: Candidate,
        profile: HardwareProfile,
    ) -> CostEstimate | AutopeftError:
        if isinstance(estimate, AutopeftError):
            return estimate
        try:
            return spread_over(estimate, self._spread, base, candidate, profile)
        except UnsupportedError as error:
            return error


def spread_of(request: Request) -> Spread:
    """Return how a request spreads its training.

    Raises:
        InputError: the parts do not go together.
    """
    return make_spread(request.gpus, request.sharding, offload=request.offload)


def device_price(request: Request, profile: HardwareProfile) -> Price | None:
    """Return what one of the request's devices costs, None where that is not known.

    Raises:
        InputError: a cost is limited and no price or speed is known, or the provider is unknown.
    """
    if profile.provenance.kind == "assumed":
        if request.budget.cost is not None:
            raise InputError(
                "a cost limit needs a device whose speed is known: add --gpu NAME (`autopeft gpus`)."
            )
        return None
    devices = spread_of(request).gpus
    price = price_of(profile.name, provider=request.provider, given=request.price, devices=devices)
    if price is None and request.budget.cost is not None:
        raise InputError(f"a cost limit needs a price, but {why_no_price(profile.name, request.provider)}.")
    return price


def require_rows(request: Request) -> None:
    """Refuse a limit on the cost or the time of a training of which nobody knows how long it is."""
    limited = [name for name in ("cost", "time") if getattr(request.budget, name) is not None]
    if limited and not (request.data or request.demo or request.examples):
        raise InputError(
            f"a {limited[0]} limit needs to know the rows: give --data FILE, or --examples N to plan without "
            "data."
        )


def require_one_device(request: Request) -> None:
    """Refuse several devices, and a cost, where known models are gone through."""
    if not spread_of(request).alone or request.budget.cost is not None:
        raise InputError("several devices and a cost limit are for a plan of one model: add --model NAME.")


def cost_as_time(request: Request, profile: HardwareProfile) -> Request:
    """Turn a search's limit on cost into one on time: this machine is paid by the hour, or is free.

    Raises:
        InputError: no price is known, or several devices shall share a trial.
    """
    if not spread_of(request).alone:
        raise InputError(
            "a search trains each trial on one device; leave out gpus, sharding and offload, "
            "or use autopeft plan or capacity."
        )
    price = device_price(request, profile)
    if price is None or price.usd_per_hour == 0 or request.budget.cost is None:
        return request
    seconds = request.budget.cost / price.usd_per_hour * SECONDS_AN_HOUR
    time = seconds if request.budget.time is None else min(request.budget.time, seconds)
    return request.model_copy(update={"budget": request.budget.model_copy(update={"time": time})})
