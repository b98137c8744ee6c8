"""What trials that run side by side get of one machine."""

from __future__ import annotations

from autopeft.hardware.catalog import load_profile
from autopeft.hardware.profile import OperatorSpeed
from autopeft.search.schedule import share_of


def test_trials_side_by_side_share_every_speed_that_was_measured() -> None:
    whole = load_profile("t4").model_copy(
        update={"operators": {"pointwise": OperatorSpeed(seconds=1e-6, bytes_per_second=8e9)}}
    )
    shared = share_of(whole, 2)
    assert shared.bandwidth_bytes_per_second == whole.bandwidth_bytes_per_second / 2
    assert shared.operators["pointwise"] == OperatorSpeed(seconds=1e-6, bytes_per_second=4e9)
