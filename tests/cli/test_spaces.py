"""autopeft spaces: a line each with the count, all about one, a file of one's own, and JSON."""

from __future__ import annotations

import json

from autopeft.space.reader import list_spaces


def test_every_space_is_listed_with_its_count_within_the_screen(autopeft) -> None:
    out = autopeft("spaces").out
    starts = [line.split()[0] for line in out.splitlines() if line and not line.startswith(" ")]
    assert {space.name for space in list_spaces()} <= set(starts)
    assert "410 k *" in next(line for line in out.splitlines() if line.startswith("autopeft-2024"))
    assert max(map(len, out.splitlines())) <= 100


def test_one_space_is_told_with_its_methods_ranges_and_conditions(autopeft) -> None:
    out = autopeft("spaces", "memory-tight").out
    assert "312, each with a value of training.learning_rate" in out
    assert "lora 288, ia3 12, ln_tuning 4, prompt_tuning 8" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["training.grad_accum", "8", "8", "training.batch_size", "=", "2"] in lines
    rates = [line for line in out.splitlines() if line.startswith("training.learning_rate")]
    assert any("0.005 to 0.05, log" in line and line.endswith("ia3, prompt_tuning") for line in rates)


def test_a_file_of_ones_own_is_counted_too_as_json(autopeft, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "domains: {method: [lora, ia3], rank: {when: {method: lora}, choices: [4, 8]}}"
    )
    facts = json.loads(autopeft("spaces", "mine.yaml", "--json").out)
    assert (facts["name"], facts["combinations"], facts["by_method"]) == ("mine", 3, {"lora": 2, "ia3": 1})
    assert facts["continuous"] == []


def test_an_unknown_space_is_one_line_with_the_near_ones(autopeft) -> None:
    answer = autopeft("spaces", "quik")
    assert answer.code == 2
    assert (
        answer.err
        == "autopeft: unknown search space 'quik': did you mean quick? A file of your own ends in .yaml.\n"
    )
