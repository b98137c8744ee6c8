from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from autopeft.errors import InputError, UnknownNameError
from autopeft.workload import models
from autopeft.workload.base_model import BaseModel
from autopeft.workload.models import find_model, list_models

ENTRIES = [
    entry
    for file in sorted(Path(models.__file__).with_name("catalogue").glob("*.yaml"))
    for entry in yaml.safe_load(file.read_text())
]


def write_config(folder: Path, **fields: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_a_catalogued_architecture_has_its_published_parameter_count(entry: dict[str, Any]) -> None:
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**entry["config"])
    with torch.device("meta"):
        model = getattr(transformers, entry["counted_as"])(config)
    counted = sum(weight.numel() for weight in model.parameters())
    assert counted == pytest.approx(entry["parameters"], rel=0.005)


def test_the_catalogue_holds_the_well_known_models() -> None:
    names = [model.name for model in list_models()]
    assert len(names) >= 24
    assert len({name.lower() for name in names}) == len(names)
    assert names == sorted(names, key=str.lower)


def test_every_name_in_the_catalogue_leads_to_one_model() -> None:
    names = [name.lower() for entry in ENTRIES for name in {entry["name"], entry["hub"], *entry["aliases"]}]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "name", ["Llama-3.1-8B", "llama-3.1-8b", "meta-llama/Llama-3.1-8B", "META-LLAMA/META-LLAMA-3.1-8B"]
)
def test_a_catalogue_model_answers_to_its_name_hub_id_and_aliases_in_any_case(name: str) -> None:
    found = find_model(name)
    assert (found.name, found.layers, found.family) == ("Llama-3.1-8B", 32, "decoder")


def test_the_catalogue_and_local_directories_need_neither_torch_nor_transformers(tmp_path: Path) -> None:
    write_config(tmp_path, model_type="bert", hidden_size=8, num_hidden_layers=1)
    code = (
        "import sys; from autopeft.workload.models import find_model;"
        f"find_model('gpt2'); find_model({str(tmp_path)!r});"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_directory_without_weights_is_an_architecture_only(tmp_path: Path) -> None:
    found = find_model(str(write_config(tmp_path, model_type="llama", num_hidden_layers=3)))
    assert (found.name, found.family, found.layers, found.path) == (tmp_path.name, "decoder", 3, None)


def test_a_directory_with_safetensors_is_a_place_to_load_weights_from(tmp_path: Path) -> None:
    write_config(tmp_path, model_type="t5", num_layers=2)
    (tmp_path / "model.safetensors").touch()
    found = find_model(str(tmp_path))
    assert (found.family, found.path) == ("encoder-decoder", str(tmp_path))
    assert find_model(str(tmp_path / "config.json")) == found.model_copy(update={"source": found.source})


def test_a_model_type_outside_the_table_is_placed_by_its_head(tmp_path: Path) -> None:
    write_config(tmp_path, model_type="codegen", architectures=["CodeGenForCausalLM"], n_layer=1)
    assert find_model(str(tmp_path)).family == "decoder"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no valid JSON at line 1"),
        ("[]", "must hold a JSON object"),
        ("{}", "has no model_type"),
        ('{"model_type": 7}', "has no model_type"),
        ('{"model_type": "no-such-type"}', "transformers does not know"),
        ('{"model_type": "codegen"}', "do not say which kind"),
        ('{"model_type": "bert", "hidden_size": "big"}', "`1 <= hidden_size"),
        ('{"model_type": "bert", "hidden_size": true}', "`1 <= hidden_size"),
        ('{"model_type": "gpt2", "n_layer": 1000000000}', "`1 <= n_layer <= 10000`"),
        ("\xff", "must be a config.json"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_malformed_config_is_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=message) as caught:
        find_model(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "qwen3-8", "a/b/c", "./nowhere", "nowhere/config.json", "~nobody/x", "a\0b", "x" * 5000]
)
def test_an_unknown_name_lists_what_there_is(name: str) -> None:
    with pytest.raises(UnknownNameError, match="hub id") as caught:
        find_model(name)
    assert "\n" not in str(caught.value)


def test_a_directory_without_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        find_model(str(tmp_path))


def test_the_hub_switched_off_names_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"cannot be reached.*catalogue name.*local directory"):
        find_model("nobody/nothing-of-this-name")


def test_roberta_counts_positions_from_its_pad_token() -> None:
    assert find_model("roberta-base").max_length == 512
    assert find_model("bert-base-uncased").max_length == 512


def test_a_model_is_found_as_a_message() -> None:
    assert isinstance(find_model("gpt2"), BaseModel)
