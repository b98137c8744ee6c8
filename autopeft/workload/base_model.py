"""BaseModel: an architecture, with or without the weights at hand."""

from __future__ import annotations

from typing import Any, Literal

from autopeft.message import Message

Family = Literal["decoder", "encoder", "encoder-decoder", "vision", "speech", "multimodal"]


class BaseModel(Message):
    """The pretrained model that a candidate adapts.

    Attributes:
        name: catalogue name, directory name or hub id.
        family: which kind of transformer it is.
        config: the Hugging Face configuration (the content of config.json).
        path: directory or hub id holding weights and tokenizer; None where only the architecture is known.
        parameters: number of weights, where published.
        source: where the configuration comes from (a URL, a file).
    """

    name: str
    family: Family
    config: dict[str, Any]
    path: str | None = None
    parameters: int | None = None
    source: str

    @property
    def layers(self) -> int:
        """Number of transformer layers (of the encoder, where there are two stacks)."""
        for key in ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers"):
            if key in self.config:
                return int(self.config[key])
        text = self.config.get("text_config", {})
        return int(text.get("num_hidden_layers", 0))

    @property
    def max_length(self) -> int | None:
        """Longest input in tokens, where the configuration limits it."""
        for key in ("max_position_embeddings", "n_positions", "n_ctx"):
            if key in self.config:
                reserved = int(self.config.get("pad_token_id") or 0) + 1 if self._counts_from_pad else 0
                return int(self.config[key]) - reserved
        return None

    @property
    def _counts_from_pad(self) -> bool:
        """Whether positions start after the id of the pad token, as in RoBERTa and its kin."""
        kin = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet")
        return self.config.get("model_type") in kin
