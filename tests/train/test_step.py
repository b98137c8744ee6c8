"""The one training step: it accumulates, clips, moves what trains, and says in which phase it is."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from autopeft.methods.adapt import trainable
from autopeft.space.candidate import Training
from autopeft.train.step import forward_loss, make_optimizer, training_step


def model(*, checkpointing: bool = False) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=100,
    )
    backbone = LlamaForCausalLM(config)
    if checkpointing:
        backbone.enable_input_require_grads()
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return get_peft_model(backbone, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"])).train()


def batches(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(0, 100, (2, 9), generator=generator) for _ in range(count)]
    return [{"input_ids": each, "attention_mask": torch.ones_like(each), "labels": each} for each in ids]


def trained(training: Training, **fields: bool) -> tuple[list[float], list[torch.Tensor]]:
    adapted = model(**fields)
    optimizer = make_optimizer(adapted, training)
    losses = [
        float(training_step(adapted, batches(training.grad_accum), optimizer, training)) for _ in range(4)
    ]
    return losses, [parameter.detach() for parameter in trainable(adapted)]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("loss", ["chunked", "fused"])
def test_training_goes_the_same_way_with_every_loss(loss: str, checkpointing: bool) -> None:
    settings = {"learning_rate": 1e-2, "grad_accum": 2}
    expected = trained(Training(**settings))
    found = trained(Training(loss=loss, **settings), checkpointing=checkpointing)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[0][-1] < found[0][0]
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "optimizer", ["adamw-fused", "adamw-8bit", "adafactor", "lion", "lora-fa", "lora-plus", "sgd"]
)
def test_training_lowers_the_loss_with_every_kind_of_optimizer(optimizer: str) -> None:
    rate = 1.0 if optimizer == "sgd" else 1e-2
    losses, _ = trained(Training(learning_rate=rate, optimizer=optimizer))
    assert losses[-1] < losses[0]


def test_micro_batches_of_equal_length_are_one_batch() -> None:
    adapted, training = model(), Training(grad_accum=3)
    parts = batches(3)
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    total = sum(float(forward_loss(adapted, part, training)) for part in parts)
    assert total == pytest.approx(float(forward_loss(adapted, whole, Training())), rel=1e-5)


def test_gradients_are_clipped_and_freed() -> None:
    training = Training(learning_rate=1.0, optimizer="sgd", max_grad_norm=1e-3)
    adapted = model()
    before = [parameter.detach().clone() for parameter in trainable(adapted)]
    training_step(adapted, batches(1), make_optimizer(adapted, training), training)
    moved = [after.detach() - each for after, each in zip(trainable(adapted), before, strict=True)]
    assert float(torch.stack([each.norm() for each in moved]).norm()) == pytest.approx(1e-3, rel=1e-2)
    assert all(parameter.grad is None for parameter in trainable(adapted))


def test_each_phase_is_announced() -> None:
    adapted, training, phases = model(), Training(grad_accum=2), []
    training_step(adapted, batches(2), make_optimizer(adapted, training), training, phases.append)
    assert phases == ["forward", "backward", "forward", "backward", "optimizer"]


def test_a_step_needs_a_micro_batch() -> None:
    adapted = model()
    with pytest.raises(ValueError, match="micro-batch"):
        training_step(adapted, [], make_optimizer(adapted, Training()), Training())
