"""What the page about files of one's own says is what the reader does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autopeft.errors import ConfigError
from autopeft.files import shipped
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.space.counting import count
from autopeft.space.domain import Choice, Range, Switches
from autopeft.space.reader import FIELDS, load_space
from autopeft.space.search_space import warm_start

PAGE = (shipped("search_spaces") / "README.md").read_text(encoding="utf-8")
REFUSED = re.findall(r"^\| `(\S+: .+)` \| (`+)(mine\.yaml.+?)\2 \|$", PAGE, re.MULTILINE)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_its_example_is_a_space_whose_methods_understand_it() -> None:
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert block
    Path("mine.yaml").write_text(block.group(1), encoding="utf-8")
    space = load_space("mine.yaml")
    assert {type(domain.allowed) for domain in space.domains} == {Choice, Range, Switches}
    assert count(space).by_method == {"lora": 48, "dora": 32, "bottleneck": 90, "ia3": 4}
    assert [complete(candidate).label for candidate in warm_start(space)] == [
        "lora r=8 query+value alpha_ratio=2.0 lr=0.001",
        "dora r=8 query+value alpha_ratio=2.0 lr=0.001",
        "bottleneck output+down layers=switches:0011 size=32 lr=0.001",
        "ia3 key+value+down lr=0.016",
    ]


def test_it_describes_every_key_and_every_field_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", PAGE, re.MULTILINE))
    assert set(FIELDS) <= set(rows)
    assert set(Candidate.model_fields) - {"knobs", "training"} | {"knobs.NAME"} <= set(rows)
    defaults = {f"training.{name}": field.default for name, field in Training.model_fields.items()}
    del defaults["training.precision"]  # the device decides
    assert {name: rows[name].lower() for name in defaults} == {
        name: str(default).lower() for name, default in defaults.items()
    }
    keys = {key for kind in (Choice, Range, Switches) for key in kind.model_fields} | {"when"}
    assert all(f"`{key}`" in PAGE for key in keys)


@pytest.mark.parametrize(("line", "answer"), [(line, answer) for line, _, answer in REFUSED])
def test_what_it_says_is_refused_is_refused_in_these_words(line: str, answer: str) -> None:
    Path("mine.yaml").write_text(f"domains:\n  method: [lora, ia3]\n  layers: [all, last-half]\n  {line}\n")
    with pytest.raises(ConfigError) as caught:
        load_space("mine.yaml")
    said = str(caught.value)
    assert said.startswith(answer.removesuffix("...")) if answer.endswith("...") else said == answer


def test_it_shows_what_is_refused() -> None:
    assert len(REFUSED) == 9
