"""A name becomes a BaseModel: from the catalogue, a local config.json or the hub; never by running code."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from autopeft.errors import InputError, UnknownNameError
from autopeft.workload import hub
from autopeft.workload.base_model import BaseModel, Family

_CATALOGUE = Path(__file__).parent / "catalogue"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")

_MODEL_TYPES: dict[Family, str] = {
    "decoder": "bloom cohere cohere2 deepseek_v3 falcon gemma gemma2 gemma3_text glm glm4 gpt2 gpt_bigcode"
    " gpt_neo gpt_neox gptj granite llama mistral mixtral mpt olmo olmo2 opt phi phi3 qwen2 qwen2_moe qwen3"
    " qwen3_moe smollm3 stablelm starcoder2",
    "encoder": "albert bert camembert deberta deberta-v2 distilbert electra ernie longformer modernbert mpnet"
    " roberta xlm-roberta xlm-roberta-xl",
    "encoder-decoder": "bart blenderbot led longt5 m2m_100 marian mbart mt5 pegasus t5 umt5",
    "vision": "beit convnext convnextv2 deit dinov2 segformer swin swinv2 vit vit_mae",
    "speech": "hubert wav2vec2 wav2vec2-bert wavlm whisper",
    "multimodal": "blip blip-2 clip gemma3 idefics3 llava llava_next mllama paligemma qwen2_5_vl qwen2_vl"
    " siglip smolvlm",
}
_FAMILY_OF: dict[str, Family] = {
    model_type: family for family, names in _MODEL_TYPES.items() for model_type in names.split()
}
_FAMILY_OF_HEAD: dict[str, Family] = {
    "ForCausalLM": "decoder",
    "LMHeadModel": "decoder",
    "ForMaskedLM": "encoder",
    "ForSequenceClassification": "encoder",
    "ForTokenClassification": "encoder",
    "ForSeq2SeqLM": "encoder-decoder",
    "ForConditionalGeneration": "encoder-decoder",
    "ForImageClassification": "vision",
    "ForCTC": "speech",
    "ForSpeechSeq2Seq": "speech",
    "ForImageTextToText": "multimodal",
}

_LARGEST = {
    "num_hidden_layers": 10_000,
    "n_layer": 10_000,
    "n_layers": 10_000,
    "num_layers": 10_000,
    "encoder_layers": 10_000,
    "num_attention_heads": 100_000,
    "hidden_size": 1_000_000,
    "n_embd": 1_000_000,
    "d_model": 1_000_000,
    "intermediate_size": 10_000_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 2**31,
}
"""Sizes beyond these are lies: building such a model would only hang."""


def find_model(name: str) -> BaseModel:
    """Find a model by catalogue name, local directory or config.json, or hub id, in this order.

    Raises:
        UnknownNameError: nothing of that name; the message lists the nearest ones of the catalogue.
        InputError: what is there is no usable configuration, or the hub cannot be reached.
    """
    listed = _by_name().get(name.strip().lower())
    if listed is not None:
        return listed
    place = Path(name)
    if name.strip() and _exists(place):
        return _local(place)
    if _HUB_ID.fullmatch(name) and not name.startswith(".") and not name.endswith(".json"):
        return _from_hub(name)
    raise UnknownNameError(
        "model",
        name,
        [model.name for model in list_models()],
        "Or name a directory with config.json, or a hub id (org/name).",
    )


@functools.cache
def list_models() -> tuple[BaseModel, ...]:
    """Return the catalogue: well-known architectures, by name."""
    return tuple(sorted((model for model, _ in _entries()), key=lambda model: model.name.lower()))


def family_of(config: dict[str, Any], source: str) -> Family:
    """Say which kind of transformer a configuration describes.

    The model type decides; where the table does not know it but transformers does, the head named in
    `architectures`.

    Raises:
        InputError: there is no model type, transformers does not know it, or its kind is unclear.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise InputError(
            f"{source} has no model_type: it must be the config.json of a Hugging Face transformers model."
        )
    if model_type in _FAMILY_OF:
        return _FAMILY_OF[model_type]
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise InputError(
            f"{source} has model_type {model_type!r}, which the installed transformers does not know: "
            "upgrade transformers, or name another model (`autopeft models`); code of a model is never run."
        )
    heads = config.get("architectures") or []
    for head in heads if isinstance(heads, list) else []:
        for suffix, family in _FAMILY_OF_HEAD.items():
            if str(head).endswith(suffix):
                return family
    raise InputError(
        f"{source} has model_type {model_type!r}, and its architectures {heads} do not say which kind of "
        f"model that is: they must end in one of {', '.join(_FAMILY_OF_HEAD)}."
    )


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError:  # a name too long for a file is no file
        return False


def _local(place: Path) -> BaseModel:
    file = place / "config.json" if place.is_dir() else place
    if not file.is_file():
        raise InputError(
            f"{place} has no config.json: name a directory of a transformers model, or a config.json."
        )
    folder = file.resolve().parent
    config = _read_config(file)
    return BaseModel(
        name=folder.name,
        family=family_of(config, str(file)),
        config=config,
        path=str(folder) if any(folder.glob("*.safetensors")) else None,
        source=str(file),
    )


def _from_hub(name: str) -> BaseModel:
    config = _read_config(hub.fetch(name, "config.json"))
    source = f"https://huggingface.co/{name}/blob/main/config.json"
    return BaseModel(name=name, family=family_of(config, source), config=config, path=name, source=source)


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{file} is no UTF-8 text: it must be a config.json.") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is no valid JSON at line {error.lineno}: {error.msg}.") from None
    except (ValueError, RecursionError):
        raise InputError(f"{file} is no config.json: nested too deeply, or a number too long.") from None
    if not isinstance(config, dict):
        raise InputError(f"{file} must hold a JSON object, but holds a {type(config).__name__}.")
    for key, largest in _LARGEST.items():
        size = config.get(key)
        if size is not None and not (type(size) is int and 1 <= size <= largest):
            raise InputError(f"`1 <= {key} <= {largest}` must hold in {file}, but got {size!r}.")
    return config


@functools.cache
def _by_name() -> dict[str, BaseModel]:
    return {name.lower(): model for model, names in _entries() for name in names}


@functools.cache
def _entries() -> tuple[tuple[BaseModel, tuple[str, ...]], ...]:
    """Read the catalogue: each model with every name it answers to."""
    import yaml

    entries = []
    for file in sorted(_CATALOGUE.glob("*.yaml")):
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")):
            model = BaseModel(
                name=entry["name"],
                family=family_of(entry["config"], file.name),
                config=entry["config"],
                path=entry["hub"],
                parameters=entry["parameters"],
                source=entry["source"],
            )
            entries.append((model, (entry["name"], entry["hub"], *entry["aliases"])))
    return tuple(entries)
