from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from autopeft.errors import InputError, UnknownNameError
from autopeft.workload import catalogued, models, naming
from autopeft.workload.base_model import BaseModel, Family
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
    counted += sum(model.get_parameter(name).numel() for name in entry.get("kept_apart", ()))
    assert counted == pytest.approx(entry["parameters"], rel=0.005)


def test_the_catalogue_holds_the_well_known_models_of_every_family() -> None:
    listed = list_models()
    names = [model.name for model in listed]
    assert len(names) >= 250
    assert len({name.lower() for name in names}) == len(names)
    assert names == sorted(names, key=str.lower)
    families = Counter(model.family for model in listed)
    assert set(families) == set(get_args(Family))
    assert min(families.values()) >= 8


def test_names_read_without_yaml_are_those_that_yaml_reads() -> None:
    read = {entry.names for entry in catalogued._entries()}
    assert read == {(entry["name"], entry["hub"], *entry["aliases"]) for entry in ENTRIES}


def test_every_name_in_the_catalogue_leads_to_one_model_however_spelled() -> None:
    owners: dict[str, set[str]] = {}
    for entry in ENTRIES:
        for name in {entry["name"], entry["hub"], *entry["aliases"]}:
            owners.setdefault(naming.spell(name), set()).add(entry["name"])
    assert [names for names in owners.values() if len(names) > 1] == []


def test_every_entry_says_where_it_comes_from_and_when_it_was_checked() -> None:
    for entry in ENTRIES:
        assert entry["source"] == f"https://huggingface.co/{entry['hub']}/blob/main/config.json"
        assert date.fromisoformat(entry["checked"])


def test_every_catalogued_architecture_has_layers_and_tokens_only_where_it_reads_them() -> None:
    for model in list_models():
        assert model.layers > 0
        assert model.max_length is None if model.family == "vision" else True
        assert model.max_length is None or model.max_length >= 64


@pytest.mark.parametrize(
    "name", ["Llama-3.1-8B", "llama-3.1-8b", "meta-llama/Llama-3.1-8B", "META-LLAMA/META-LLAMA-3.1-8B"]
)
def test_a_catalogue_model_answers_to_its_name_hub_id_and_aliases_in_any_case(name: str) -> None:
    found = find_model(name)
    assert (found.name, found.layers, found.family) == ("Llama-3.1-8B", 32, "decoder")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama 2 7 B", "Llama-2-7b"),
        ("llama2_7b", "Llama-2-7b"),
        ("meta-llama/Llama-2-7b-chat-hf", "Llama-2-7b"),
        ("NousResearch/Meta-Llama-3.1-8B-Instruct", "Llama-3.1-8B"),
        ("unsloth/llama-3-8b-Instruct-bnb-4bit", "Llama-3-8B"),
        ("huggyllama/llama-7b", "Llama-7b"),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-7B"),
        ("Qwen/Qwen2.5-Coder-7B-Instruct", "Qwen2.5-7B"),
        ("Qwen/Qwen3-8B-Base", "Qwen3-8B"),
        ("Qwen-7B", "Qwen-7B"),
        ("Qwen/Qwen-1_8B-Chat", "Qwen-1.8B"),
        ("mistral 7b", "Mistral-7B-v0.1"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "Mistral-7B-v0.3"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "Mistral-Nemo-12B"),
        ("TheBloke/Mixtral-8x7B-Instruct-v0.1-GPTQ", "Mixtral-8x7B"),
        ("phi-1.5 1.3 B", "phi-1.5"),
        ("microsoft/Phi-3.5-mini-instruct", "Phi-3.5-mini"),
        ("TinyLlama 1.1B", "TinyLlama-1.1B"),
        ("Falcon 40 B", "falcon-40b"),
        ("StableLM Alpha 3 B", "StableLM-Alpha-3B"),
        ("gemma 2b", "gemma-2b"),
        ("gemma 2 2b it", "gemma-2-2b"),
        ("google/gemma-3-1b-it", "gemma-3-1b"),
        ("EleutherAI/pythia-1.4b-deduped", "pythia-1.4b"),
        ("DeepSeek-R1-Distill-Llama-8B", "Llama-3.1-8B"),
        ("whisper base", "whisper-base"),
        ("ESM-2 650M", "esm2_t33_650M"),
    ],
)
def test_a_model_is_found_however_its_name_is_spelled_or_tuned(name: str, expected: str) -> None:
    assert find_model(name).name == expected


@pytest.mark.parametrize(
    "name",
    [
        "llama-3-7b",
        "Llama-8B",
        "qwen-27b",
        "qwen-1-4b",
        "Qwen2.5-8B",
        "Qwen2.5-7B-Instruct-1M",
        "Llama-3.2-11B-Vision-Instruct",
        "Llama-3.1-Nemotron-70B-Instruct-HF",
        "stablelm-base-alpha-3b-v2",
        "bert-base-chinese",
        "gemma-2",
        "whisper",
        "t5",
        "7b",
        "instruct",
    ],
)
def test_a_name_that_is_only_near_matches_nothing(name: str) -> None:
    with pytest.raises(UnknownNameError):
        find_model(name)


def test_the_weights_are_those_of_the_name_that_was_asked_for() -> None:
    assert find_model("llama 2 7b").path == "meta-llama/Llama-2-7b-hf"
    assert find_model("NousResearch/Llama-2-7b-hf").path == "NousResearch/Llama-2-7b-hf"
    assert find_model("Qwen/Qwen2.5-7B-Instruct").path == "Qwen/Qwen2.5-7B-Instruct"
    assert find_model("deepseek-r1-distill-llama-8b").path == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"


@pytest.mark.parametrize(
    "name", ["llama-2-7b-chat", "TheBloke/Llama-2-7B-GPTQ", "unsloth/Llama-3.2-1B-bnb-4bit", "Qwen/Qwen-7B"]
)
def test_weights_that_are_unknown_or_stored_otherwise_are_none(name: str) -> None:
    found = find_model(name)
    assert found.path is None
    assert found.note


def test_a_guess_by_name_says_so() -> None:
    assert "because of its name" in str(find_model("someone/Llama-2-7b-chat").note)
    assert find_model("Llama-2-7b").note is None


def test_a_local_directory_goes_before_a_likeness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama-2-7b-chat").mkdir()
    write_config(tmp_path / "llama-2-7b-chat", model_type="llama", num_hidden_layers=3)
    monkeypatch.chdir(tmp_path)
    assert find_model("llama-2-7b-chat").layers == 3


@pytest.mark.parametrize(
    "name", ["./llama-2-7b-chat", "models/old/llama-2-7b-chat", "llama-2-7b-chat/config.json"]
)
def test_a_path_that_is_not_there_is_no_likeness(name: str) -> None:
    with pytest.raises(InputError):
        find_model(name)


@pytest.mark.parametrize(
    ("name", "family", "layers", "max_length"),
    [
        ("gpt2-xl", "decoder", 48, 1024),
        ("bloom-560m", "decoder", 24, None),
        ("mpt-7b", "decoder", 32, 2048),
        ("distilbert-base-uncased", "encoder", 6, 512),
        ("esm2_t33_650M", "encoder", 33, 1024),
        ("longformer-base-4096", "encoder", 12, 4096),
        ("flan-t5-xl", "encoder-decoder", 24, None),
        ("bart-large", "encoder-decoder", 12, 1024),
        ("vit-large-patch16-224", "vision", 24, None),
        ("dinov2-giant", "vision", 40, None),
        ("swin-tiny-patch4-window7-224", "vision", 12, None),
        ("whisper-large-v3-turbo", "speech", 32, 448),
        ("wav2vec2-base", "speech", 12, None),
        ("clip-vit-large-patch14", "multimodal", 12, 77),
        ("Qwen2-VL-7B", "multimodal", 28, 32768),
        ("llava-1.5-7b", "multimodal", 32, 4096),
    ],
)
def test_layers_and_longest_input_are_right_for_every_kind(
    name: str, family: str, layers: int, max_length: int | None
) -> None:
    found = find_model(name)
    assert (found.family, found.layers, found.max_length) == (family, layers, max_length)


def test_t5_has_no_longest_input_though_its_config_names_positions(tmp_path: Path) -> None:
    write_config(tmp_path, model_type="t5", num_layers=2, n_positions=512)
    assert find_model(str(tmp_path)).max_length is None


def test_the_catalogue_and_local_directories_need_neither_torch_nor_transformers(tmp_path: Path) -> None:
    write_config(tmp_path, model_type="bert", hidden_size=8, num_hidden_layers=1)
    code = (
        "import sys; from autopeft.workload.models import find_model;"
        f"find_model('gpt2'); find_model('llama 2 7b'); find_model({str(tmp_path)!r});"
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


@pytest.mark.parametrize("name", ["", "qwen3-8", "a/b/c", "nowhere/config.json", "a\0b", "x" * 5000])
def test_an_unknown_name_lists_what_there_is(name: str) -> None:
    with pytest.raises(UnknownNameError, match="hub id") as caught:
        find_model(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "../a/nowhere", "/nowhere", "~nobody/x", "org/nowhere/"])
def test_a_path_at_which_there_is_nothing_is_no_unknown_name(name: str) -> None:
    with pytest.raises(InputError, match="hub id") as caught:
        find_model(name)
    assert str(caught.value).startswith(f"there is no directory {name!r}: ")
    assert ("with ~ written out" in str(caught.value)) == name.startswith("~")


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
