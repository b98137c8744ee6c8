"""BaseModel: an architecture, with or without the weights at hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from autopeft.message import Message

Family = Literal["decoder", "encoder", "encoder-decoder", "vision", "speech", "multimodal"]

_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "depth")
_LONGEST = ("max_position_embeddings", "n_positions", "max_target_positions", "max_seq_len", "n_ctx")
# Positions are relative to each other, so any length goes, whatever `n_positions` says.
_UNLIMITED = ("bloom", "longt5", "mt5", "switch_transformers", "t5", "umt5")
# Positions start after the id of the pad token, as in RoBERTa and its kin.
_COUNT_FROM_PAD = (
    "camembert",
    "data2vec-text",
    "esm",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
)


class BaseModel(Message):
    """The pretrained model that a candidate adapts.

    Attributes:
        name: catalogue name, directory name or hub id.
        family: which kind of transformer it is.
        config: the Hugging Face configuration (the content of config.json).
        path: directory or hub id holding weights and tokenizer; None where only the architecture is known.
        parameters: number of weights, where published.
        source: where the configuration comes from (a URL, a file).
        note: how the configuration differs from the published model, or was guessed from a name.
    """

    name: str
    family: Family
    config: dict[str, Any]
    path: str | None = None
    parameters: int | None = None
    source: str
    note: str | None = None

    @property
    def layers(self) -> int:
        """Number of transformer layers.

        Of the encoder where there is a decoder too, of the text part where there are several, over all
        stages of a pyramid; 0 where the configuration leaves it to a default.
        """
        for part in self._parts("text_config", "vision_config"):
            if isinstance(part.get("depths"), list):  # of Swin, whose num_layers are its stages
                return sum(part["depths"])
            for key in _LAYERS:
                if isinstance(part.get(key), int):
                    return int(part[key])
        return 0

    @property
    def max_length(self) -> int | None:
        """Longest sequence of tokens, where there are tokens and the configuration limits them.

        Of speech models, tokens of the transcript; of multimodal ones, of the text part.
        """
        if self.family == "vision" or self.config.get("model_type") in _UNLIMITED:
            return None
        for part in self._parts("text_config"):
            for key in _LONGEST:
                if isinstance(part.get(key), int):
                    return int(part[key]) - self._reserved
        return None

    @property
    def _reserved(self) -> int:
        """Positions that no token takes."""
        if self.config.get("model_type") not in _COUNT_FROM_PAD:
            return 0
        return int(self.config.get("pad_token_id") or 0) + 1

    def _parts(self, *names: str) -> Iterator[dict[str, Any]]:
        yield self.config
        for name in names:
            part = self.config.get(name)
            if isinstance(part, dict):
                yield part
