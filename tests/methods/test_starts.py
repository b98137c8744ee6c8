"""LoRA's variants by name: they start where their papers say, and what takes its start away gives it back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import logits_of, reloads, train
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraConfig, LoraLayer
from recordings import faked
from toys import backbone, job_of, toy_batch

from autopeft.cost.tracing.take import Job
from autopeft.errors import InputError, TrialError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.lora_variants import LORA_VARIANTS, MOVED, VARIANTS
from autopeft.methods.preparing import prepare
from autopeft.methods.registry import METHODS
from autopeft.methods.starts import save_adapter
from autopeft.train.losses import loss_of
from autopeft.train.step import make_optimizer, training_step


def started(method: str, family: Any = "decoder") -> tuple[Any, Job]:
    """Return an adapted and prepared model, and its job."""
    job = job_of(method, family)
    training = job.candidate.training
    model = adapt(backbone(job), job.candidate, job.task)
    batches = itertools.repeat(toy_batch(job, model.config))
    prepare(model, job.candidate, batches, lambda its, batch: loss_of(its, batch, training))
    return model, job


def layers(model: Any) -> dict[str, Any]:
    return {
        name.removeprefix("base_model.model."): layer
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def delta(layer: Any) -> torch.Tensor:
    found: torch.Tensor = layer.get_delta_weight("default").detach()
    return found


def test_every_variant_is_a_row_with_a_paper_and_fields_that_peft_has() -> None:
    fields = set(LoraConfig.__dataclass_fields__)
    for spec in LORA_VARIANTS:
        assert METHODS[spec.name].peft_type == "LORA"
        assert spec.paper
        assert set(VARIANTS[spec.name].fields) <= fields


@pytest.mark.parametrize("method", sorted(set(VARIANTS) - {"kasa"}))
def test_a_variant_computes_at_its_start_what_the_base_model_computes(method: str) -> None:
    model, job = started(method)
    assert torch.allclose(logits_of(model, job), logits_of(backbone(job), job), atol=1e-4)


@pytest.mark.parametrize("method", sorted(set(VARIANTS) - MOVED - {"kasa"}))
def test_the_weights_stay_where_a_variant_does_not_move_them(method: str) -> None:
    model, job = started(method)
    base = dict(backbone(job).named_modules())
    assert all(
        torch.equal(base[name].weight, one.get_base_layer().weight) for name, one in layers(model).items()
    )


def test_pissa_starts_as_the_principal_part_of_each_matrix() -> None:
    """arXiv:2404.02948, equations 2 to 4: A and B hold the first r directions, the rest is frozen."""
    model, job = started("pissa")
    base = dict(backbone(job).named_modules())
    for name, layer in layers(model).items():
        left, sizes, right = torch.linalg.svd(base[name].weight, full_matrices=False)
        rank = layer.r["default"]
        principal = left[:, :rank] * sizes[:rank] @ right[:rank]
        assert torch.allclose(delta(layer), principal, atol=1e-5)
        assert torch.allclose(layer.get_base_layer().weight, base[name].weight - principal, atol=1e-5)


def test_olora_starts_from_an_orthonormal_basis() -> None:
    """arXiv:2406.01775, equation 5: W = Q R, and B holds the first r columns of Q."""
    for layer in layers(started("olora")[0]).values():
        columns = layer.lora_B["default"].weight
        assert torch.allclose(columns.T @ columns, torch.eye(columns.shape[1]), atol=1e-5)


def test_lora_ga_starts_along_the_gradient() -> None:
    """arXiv:2407.05000, theorem 3.1: A and B span the first 2 r singular directions of the gradient."""
    model, job = started("lora-ga")
    plain = backbone(job).train()
    loss_of(plain, toy_batch(job, plain.config), job.candidate.training).backward()
    for name, layer in layers(model).items():
        gradient = plain.get_submodule(name).weight.grad
        rank = layer.r["default"]
        _, _, right = torch.linalg.svd(gradient, full_matrices=False)
        rows = layer.lora_A["default"].weight
        outside = rows - rows @ right[: 2 * rank].T @ right[: 2 * rank]
        assert outside.norm() < 0.05 * rows.norm()


def test_eva_starts_along_the_main_directions_of_what_enters() -> None:
    """arXiv:2410.07170, section 3.2: A holds right singular vectors of the activations, B is zero."""
    for layer in layers(started("eva")[0]).values():
        rows = layer.lora_A["default"].weight
        assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-3)
        assert not layer.lora_B["default"].weight.any()


def test_corda_starts_where_its_data_are_large() -> None:
    """arXiv:2406.05223: the start holds more of W X than as large a part of W alone does."""
    model, job = started("corda")
    base = backbone(job).eval()
    entered: dict[str, torch.Tensor] = {}
    for name in layers(model):
        base.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: entered.__setitem__(
                name, args[0].reshape(-1, args[0].shape[-1])
            )
        )
    batch = toy_batch(job, base.config)
    with torch.no_grad():
        base(**{name: value for name, value in batch.items() if name != "labels"})
        for name, layer in layers(model).items():
            weight, rank = base.get_submodule(name).weight, layer.r["default"]
            left, sizes, right = torch.linalg.svd(weight, full_matrices=False)
            plain = left[:, :rank] * sizes[:rank] @ right[:rank]
            lost = ((weight - delta(layer)) @ entered[name].T).norm()
            assert lost < ((weight - plain) @ entered[name].T).norm()


LARGEST = {"pissa": 32, "olora": 32, "corda": 32, "lora-ga": 16, "eva": 64}


def of_rank(method: str, rank: int) -> Job:
    usual = job_of(method, "decoder")
    return usual._replace(candidate=usual.candidate.model_copy(update={"rank": rank}))


@pytest.mark.parametrize(("method", "most"), LARGEST.items())
def test_a_rank_beyond_the_directions_of_a_matrix_is_refused_before_anything_is_trained(method, most) -> None:
    job = of_rank(method, most + 1)
    place = r"model.layers.0.self_attn.\w+ \(\d+ x 64\)"
    law = rf"{method}'s rank must be at most {most} at {place}, but got {most + 1}"
    with pytest.raises(InputError, match=law):
        adapt(backbone(job), job.candidate, job.task)
    with pytest.raises(InputError, match=law):
        faked(job)


@pytest.mark.parametrize(("method", "most"), LARGEST.items())
def test_the_largest_rank_trains_and_loads_again(method, most, tmp_path: Path) -> None:
    trained = train(of_rank(method, most))
    assert reloads(trained, tmp_path).holds


def test_eva_gives_up_where_no_batch_has_as_many_tokens_as_the_rank(capsys) -> None:
    job = of_rank("eva", 32)
    model = adapt(backbone(job), job.candidate, job.task)
    small = {name: value[:1] for name, value in toy_batch(job, backbone(job).config).items()}
    with pytest.raises(TrialError, match=r"raise the batch size or lower the rank"):
        prepare(model, job.candidate, itertools.repeat(small), lambda its, batch: its(**batch).loss)
    assert capsys.readouterr().out == ""


def test_mica_trains_a_alone_behind_the_least_directions() -> None:
    model, job = started("mica")
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_A" in name for name in names)
    assert job.candidate.rank == layers(model).popitem()[1].r["default"]


@pytest.mark.parametrize("method", sorted(MOVED))
@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_what_takes_its_start_away_is_saved_as_plain_lora_of_twice_the_rank_head_included(
    method: str, family: Any, tmp_path: Path
) -> None:
    model, job = started(method, family)
    training = job.candidate.training
    optimizer, batch = make_optimizer(model, training), toy_batch(job, model.config)
    for _ in range(3):
        training_step(model.train(), [batch], optimizer, training)
    save_adapter(model, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["init_lora_weights"]) == (2 * (job.candidate.rank or 0), True)
    loaded = PeftModel.from_pretrained(backbone(job), str(tmp_path))
    base = dict(backbone(job).named_modules())
    for name, layer in layers(loaded).items():
        assert torch.equal(base[name].weight, layer.get_base_layer().weight)
    assert torch.allclose(logits_of(loaded, job), logits_of(model, job), atol=1e-5)


@pytest.mark.parametrize("patterns", [{"alpha_pattern": {"q_proj": 32}}, {"rank_pattern": {"q_proj": 2}}])
def test_ranks_and_scales_of_single_matrices_are_saved_too(patterns: dict[str, Any], tmp_path: Path) -> None:
    usual = job_of("pissa", "decoder")
    asked = usual.candidate.model_copy(update={"knobs": usual.candidate.knobs | patterns})
    job = usual._replace(candidate=asked)
    model = adapt(backbone(job), job.candidate, job.task)
    assert isinstance(model, PeftModel)
    save_adapter(model, tmp_path)
    loaded = PeftModel.from_pretrained(backbone(job), str(tmp_path))
    assert torch.allclose(logits_of(loaded, job), logits_of(model, job), atol=1e-5)


def test_other_adapters_are_saved_as_peft_saves_them(tmp_path: Path) -> None:
    job = job_of("lora", "decoder")
    model = adapt(backbone(job), job.candidate, job.task)
    assert isinstance(model, PeftModel)
    save_adapter(model, tmp_path / "ours")
    model.save_pretrained(str(tmp_path / "peft"))
    ours, its = ((tmp_path / kind / "adapter_config.json").read_text() for kind in ("ours", "peft"))
    assert ours == its


def test_peft_s_own_conversion_loses_the_head_which_is_why_it_is_not_used(tmp_path: Path) -> None:
    job = job_of("pissa", "encoder")
    config = LoraConfig(r=4, target_modules=["query"], init_lora_weights="pissa", task_type="SEQ_CLS")
    model = get_peft_model(backbone(job), config)
    kept = model.base_model.subtract_mutated_init({"classifier.weight": torch.zeros(1)}, "default", {})
    assert kept == {}
    assert any("classifier" in name for name, p in model.named_parameters() if p.requires_grad)
    assert trainable(model)
