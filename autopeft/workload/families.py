"""Which kind of transformer a configuration describes."""

from __future__ import annotations

from typing import Any

from autopeft.errors import InputError
from autopeft.workload.base_model import Family

_MODEL_TYPES: dict[Family, str] = {
    "decoder": "bloom cohere cohere2 deepseek_v2 deepseek_v3 falcon gemma gemma2 gemma3_text glm glm4 gpt2"
    " gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe internlm3 llama llama4_text"
    " mistral mixtral mpt olmo olmo2 olmo3 olmoe opt phi phi3 phimoe qwen2 qwen2_moe qwen3"
    " qwen3_moe smollm3 stablelm starcoder2",
    "encoder": "albert bert camembert deberta deberta-v2 distilbert electra ernie esm longformer modernbert"
    " mpnet roberta xlm-roberta xlm-roberta-xl",
    "encoder-decoder": "bart blenderbot led longt5 m2m_100 marian mbart mt5 pegasus t5 umt5",
    "vision": "beit convnext convnextv2 deit dinov2 segformer swin swinv2 vit vit_mae",
    "speech": "hubert wav2vec2 wav2vec2-bert wavlm whisper",
    "multimodal": "blip blip-2 clip gemma3 idefics3 llama4 llava llava_next mllama paligemma qwen2_5_vl"
    " qwen2_vl qwen3_vl siglip smolvlm",
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
