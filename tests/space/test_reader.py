from __future__ import annotations

from pathlib import Path

import pytest

from autopeft.errors import ConfigError, UnknownNameError
from autopeft.space.candidate import Candidate
from autopeft.space.reader import list_spaces, load_space
from autopeft.space.search_space import assignments, candidate_from, size, warm_start

GOOD = """\
description: a small space
families: [encoder]
domains:
  method: [lora, ia3]
  rank: {when: {method: lora}, choices: [4, 8], default: 8}
  training.learning_rate:
    - {when: {method: [lora]}, low: 5e-4, high: 5e-3, log: true}
    - when: {method: [ia3]}
      low: 5e-3
      high: 5e-2
      log: true
fixed:
  training.epochs: 2
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_becomes_a_space_named_after_it(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, GOOD))
    assert (space.name, space.description, space.families) == ("mine", "a small space", ("encoder",))
    assert space.methods == ("lora", "ia3")
    assert size(space) == 3
    assert space.fixed == {"training.epochs": 2}
    rates = [domain.allowed for domain in space.domains if domain.field == "training.learning_rate"]
    assert [(rate.low, rate.high) for rate in rates] == [(5e-4, 5e-3), (5e-3, 5e-2)]


def test_layers_may_be_switched_one_by_one(tmp_path: Path) -> None:
    path = write(tmp_path, "domains:\n  method: [mam]\n  layers: {switches: 3, default: 'switches:011'}\n")
    (_, layers) = load_space(path).domains
    assert size(load_space(path)) == 2**3 - 1
    assert layers.allowed.typical == "switches:011"
    assert "switches:110" in layers.allowed


def test_the_shipped_spaces_are_listed_and_loaded_by_name() -> None:
    names = [space.name for space in list_spaces()]
    wanted = ("quick", "lora-family", "full", "autopeft-2024", "encoder", "vision", "memory-tight")
    assert set(names) == {*wanted, "adapters", "wide"}
    assert load_space("quick").name == "quick"


def test_memory_tight_always_adds_up_to_the_same_batch() -> None:
    for assignment in assignments(load_space("memory-tight")):
        training = candidate_from(load_space("memory-tight"), assignment).training
        assert training.batch_size * training.grad_accum == 16
        assert training.gradient_checkpointing


def test_every_method_of_the_quick_space_is_tried_with_a_rate_known_to_work() -> None:
    rates = {each.method: each.training.learning_rate for each in warm_start(load_space("quick"))}
    assert rates["lora"] == 1e-3
    assert rates["ia3"] == rates["prompt_tuning"] == 1e-2
    assert isinstance(warm_start(load_space("quick"))[0], Candidate)


def test_an_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown search space 'quik': did you mean quick\?"):
        load_space("quik")


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (("method: [lora, ia3]", "method: []"), r"mine\.yaml:4: method: choices"),
        (("low: 5e-4", "low: 5e-1"), r"mine\.yaml:7: training.learning_rate: .*`low <= high` must hold"),
        (("low: 5e-4", "low: little"), r"mine\.yaml:7: training.learning_rate: low"),
        (("      high: 5e-2\n", ""), r"mine\.yaml:8: training.learning_rate: high: Field required"),
        (("      log: true\n", "      logarithmic: true\n"), r"mine\.yaml:8: .*logarithmic: no such field"),
        (("rank: {", "rnk: {"), r"mine\.yaml:5: rnk: .*no field of a candidate is called 'rnk'"),
        (("training.learning_rate:", "training.lr:"), r"mine\.yaml:7: training.lr: .*no field"),
        (("method: lora}", "methd: lora}"), r"mine\.yaml:5: rank: `when` must look at fields further up"),
        (("method: lora}", "method: lorra}"), r"mine\.yaml:5: rank: `when` asks for method='lorra'"),
        (("when: {method: [ia3]}", "when: {method: [lora, ia3]}"), r"mine\.yaml:8: .*can count at once"),
        (("choices: [4, 8]", "choices: [8, 0]"), r"mine\.yaml:5: rank: .*greater than or equal to 1"),
        (("choices: [4, 8]", "choices: 4"), r"mine\.yaml:5: rank: choices"),
        (("default: 8", "default: 9"), r"mine\.yaml:5: rank: .*`default` must be one of"),
        (("training.epochs: 2", "training.epochs: none"), r"mine\.yaml:13: training.epochs"),
        (("training.epochs: 2", "training.epoch: 2"), r"mine\.yaml:13: training.epoch: no field"),
        (("training.epochs: 2", "training.epochs: [2]"), r"mine\.yaml:13: training.epochs"),
        (("training.epochs: 2", "rank: 8"), r"mine\.yaml:5: rank: .*both searched and fixed"),
        (("fixed:", "fixd:"), r"mine\.yaml:12: fixd: unknown key"),
        (("families: [encoder]", "families: [encoders]"), r"mine\.yaml:1: mine: families"),
        (("domains:", "domains: []\nrest:"), r"rest: unknown key"),
        (("fixed:", "domains:"), r"mine\.yaml:12: domains: is given twice"),
        (("method: [lora, ia3]", "method: [lora, ia3"), r"mine\.yaml:5: no valid YAML"),
        (("method: [lora, ia3]", "method: !!python/object:os.system [lora]"), r"mine\.yaml:4: "),
        (("method: [lora, ia3]", "method: lora"), r"mine\.yaml:4: method: must be a list"),
    ],
)
def test_a_malformed_space_names_file_line_and_key(
    tmp_path: Path, change: tuple[str, str], where: str
) -> None:
    assert change[0] in GOOD
    with pytest.raises(ConfigError, match=where) as error:
        load_space(write(tmp_path, GOOD.replace(*change, 1)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"description: nothing\n", "domains: is missing"),
        (b"domains: {method: \xff\xfe}", "not UTF-8"),
        (b"[" * 5000, "nested too deeply"),
        (b"a: \x00", "no valid YAML"),
        (b"domains: &d {method: *d}\n", "mine.yaml"),
        (b"domains: {method: {choices: &a [*a]}}\n", "mine.yaml"),
        (b"domains: {method: [2020-13-45]}\n", "mine.yaml"),
    ],
)
def test_a_file_that_is_no_space_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        load_space(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_space(str(tmp_path / "nowhere.yaml"))
