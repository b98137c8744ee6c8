from __future__ import annotations

import pytest

from autopeft.errors import UnknownNameError

DEVICES = ("a10", "a10g", "a100-40gb", "a100-80gb", "h100-sxm", "h200", "l4")


@pytest.mark.parametrize(("given", "meant"), [
    ("a100", "a100-40gb or a100-80gb or a10"),
    ("A100", "a100-40gb or a100-80gb or a10"),
    ("L4", "l4"),
    ("h20", "h200"),
])  # fmt: skip
def test_what_begins_as_it_was_written_is_meant_first(given: str, meant: str) -> None:
    assert f"did you mean {meant}" in str(UnknownNameError("device", given, DEVICES))


def test_of_names_alike_that_with_the_same_letters_is_meant_first() -> None:
    methods = ("dora", "loha", "lokr", "lora", "mora", "road")
    assert "did you mean lora or " in str(UnknownNameError("method", "lroa", methods))


@pytest.mark.parametrize("given", ["zzz", ""])
def test_where_nothing_is_near_all_are_listed(given: str) -> None:
    assert "known: a10, a100-40gb" in str(UnknownNameError("device", given, DEVICES))
