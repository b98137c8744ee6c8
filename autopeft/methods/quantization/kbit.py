"""Preparation of a quantised model for training, as most QLoRA recipes do it."""

from __future__ import annotations

from peft import prepare_model_for_kbit_training
from transformers import PreTrainedModel


def prepare_kbit(model: PreTrainedModel, *, gradient_checkpointing: bool) -> None:
    """Freeze a quantised model and upcast what is not quantised, in place; works on fake tensors.

    It is peft's `prepare_model_for_kbit_training`: for bitsandbytes (and AWQ) every parameter in 16
    bits (norms, embeddings, head, biases) becomes fp32; for GPTQ, HQQ and torchao none does. Call it
    before the model is adapted.

    Args:
        gradient_checkpointing: recompute layers in backward (not reentrant), and let the embeddings'
            output require a gradient so that adapters in every layer get theirs.
    """
    prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if gradient_checkpointing and not model.is_activation_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
