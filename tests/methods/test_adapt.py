"""Every method, on every tiny architecture it claims: builds, trains only its own, learns, and reloads."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from autopeft.errors import InputError, UnknownNameError, UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.lora_variants import LORA_VARIANTS
from autopeft.methods.peft_types import PEFT_METHODS
from autopeft.methods.registry import METHODS, complete, require_support
from autopeft.space.candidate import Candidate, Training
from autopeft.train.step import make_optimizer, training_step
from autopeft.workload.base_model import BaseModel

TRAINING = Training(max_length=32, learning_rate=1e-2)
FROM_PEFT = {spec.name for spec in (*PEFT_METHODS, *LORA_VARIANTS)}
CASES = [
    pytest.param(method, base, task, id=f"{method}-{base}-{task}")
    for (base, task), (method, spec) in itertools.product(
        (
            ("tiny_bert", "classification"),
            ("tiny_llama", "classification"),
            ("tiny_llama", "sft"),
            ("tiny_gpt2", "sft"),
        ),
        ((name, spec) for name, spec in METHODS.items() if name not in FROM_PEFT),
    )
    if task in spec.tasks and (method != "bitfit" or base != "tiny_llama")
]


def batch_for(task: str) -> dict[str, torch.Tensor]:
    """Rows whose class can be read off their first token."""
    ids = torch.arange(4, 52).reshape(4, 12)
    ids[:, 0] = torch.tensor([5, 6, 5, 6])
    labels = torch.tensor([0, 1, 0, 1]) if task == "classification" else ids
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def backbone(base: BaseModel, task: str, training: Training = TRAINING) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_backbone(base, task, 2, training, weights=False)


@pytest.fixture
def base(request: pytest.FixtureRequest) -> BaseModel:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(("method", "base", "task"), CASES, indirect=["base"])
def test_a_method_changes_only_what_it_trains_and_the_loss_falls(method, base, task) -> None:
    model = adapt(backbone(base, task), Candidate(method=method, training=TRAINING), task)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = make_optimizer(model, TRAINING)
    model.train()
    losses = [float(training_step(model, [batch_for(task)], optimizer, TRAINING)) for _ in range(20)]
    assert min(losses[10:]) < losses[0]
    after = dict(model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())
    assert trainable(model)


@pytest.mark.parametrize(("method", "base", "task"), CASES, indirect=["base"])
def test_an_adapter_saved_and_reloaded_by_peft_gives_the_same_logits(
    method, base, task, tmp_path: Path
) -> None:
    if METHODS[method].exports == "model":
        pytest.skip("exported as a whole model, see tests/export")
    model = adapt(backbone(base, task), Candidate(method=method, training=TRAINING), task)
    optimizer, batch = make_optimizer(model, TRAINING), batch_for(task)
    for _ in range(3):
        training_step(model, [batch], optimizer, TRAINING)
    model.eval()
    with torch.inference_mode():
        expected = model(**batch).logits
        model.save_pretrained(str(tmp_path))
        loaded = PeftModel.from_pretrained(backbone(base, task), str(tmp_path)).eval()
        assert torch.allclose(loaded(**batch).logits, expected, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}


OURS = [name for name in METHODS if name not in FROM_PEFT]


@pytest.mark.parametrize("method", [name for name in OURS if METHODS[name].placeable])
def test_placement_adapts_only_the_layers_asked_for(method, tiny_bert) -> None:
    model = adapt(
        backbone(tiny_bert, "classification"), Candidate(method=method, layers="2-3"), "classification"
    )
    names = [name for name, p in model.named_parameters() if p.requires_grad and ".layer." in name]
    assert names
    assert all(".layer.2." in name or ".layer.3." in name for name in names)


@pytest.mark.parametrize("method", sorted(set(OURS) - {"bitfit"}))
def test_gradient_checkpointing_trains_the_same_loss(method, tiny_llama) -> None:
    plain = Training(max_length=32)
    saving = Training(max_length=32, gradient_checkpointing=True)
    candidate = Candidate(method=method, training=saving)
    if method == "prefix_tuning":
        with pytest.raises(UnsupportedError, match="gradient checkpointing"):
            require_support(candidate, tiny_llama, "classification")
        return
    losses = []
    for training in (plain, saving):
        model = adapt(backbone(tiny_llama, "classification", training), candidate, "classification")
        model.train()
        torch.manual_seed(1)
        optimizer = make_optimizer(model, training)
        losses.append(
            [float(training_step(model, [batch_for("classification")], optimizer, training)) for _ in "ab"]
        )
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_accumulated_micro_batches_give_the_gradient_of_the_whole(tiny_bert) -> None:
    whole, halves = Training(max_length=32), Training(max_length=32, grad_accum=2)
    batch = batch_for("classification")
    parts = [{k: v[:2] for k, v in batch.items()}, {k: v[2:] for k, v in batch.items()}]
    weights = []
    for training, batches in ((whole, [batch]), (halves, parts)):
        model = adapt(backbone(tiny_bert, "classification"), Candidate(method="full"), "classification")
        training_step(model, batches, make_optimizer(model, training), training)
        weights.append(torch.cat([p.flatten() for p in trainable(model)]))
    assert torch.allclose(*weights, atol=1e-4)


def test_lora_has_r_times_in_plus_out_parameters_a_matrix(tiny_bert) -> None:
    model = adapt(
        backbone(tiny_bert, "classification"),
        Candidate(method="lora", rank=4, targets="attention"),
        "classification",
    )
    adapter = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "lora" in n)
    assert adapter == 4 * 4 * 4 * (32 + 32)


def test_a_candidate_with_what_its_method_lacks_is_refused() -> None:
    with pytest.raises(InputError, match="has no rank"):
        complete(Candidate(method="ia3", rank=4))
    with pytest.raises(InputError, match="chooses its own place"):
        complete(Candidate(method="prompt_tuning", layers="0-1"))
    with pytest.raises(InputError, match="has no knob width"):
        complete(Candidate(method="bottleneck", knobs={"width": 4}))
    with pytest.raises(UnknownNameError, match="did you mean lora"):
        complete(Candidate(method="lorra"))


def test_unsupported_pairs_say_why(tiny_bert, tiny_llama) -> None:
    with pytest.raises(UnsupportedError, match="sft needs a decoder"):
        require_support(Candidate(method="lora"), tiny_bert, "sft")
    with pytest.raises(UnknownNameError, match="nf5"):
        require_support(Candidate(method="lora", quantization="nf5"), tiny_llama, "sft")
    with pytest.raises(UnsupportedError, match="probe is for classification"):
        require_support(Candidate(method="probe"), tiny_llama, "sft")


def test_a_length_beyond_the_model_is_refused(tiny_bert) -> None:
    with pytest.raises(InputError, match="seq_len must be at most 64"):
        backbone(tiny_bert, "classification", Training(max_length=65))
