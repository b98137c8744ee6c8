"""Every method that peft has: the same on fake tensors as on real ones, trainable, and told by its fields."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from autopeft.cost.tracing.initialisers import held_on_host, initialised_on_fakes
from autopeft.cost.tracing.recorder import Recorder
from autopeft.cost.tracing.shims import traced_as
from autopeft.cost.tracing.trace import _FakeMode
from autopeft.errors import InputError, UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.peft_config import fields_of
from autopeft.methods.peft_types import PEFT_METHODS
from autopeft.methods.registry import METHODS, complete, require_support
from autopeft.methods.starts import save_adapter
from autopeft.methods.tuners import OWN_TUNERS
from autopeft.space.candidate import Candidate, Training
from autopeft.train.step import make_optimizer, training_step
from autopeft.workload.base_model import BaseModel
from autopeft.workload.models import list_models

TINY = BaseModel(
    name="tiny",
    family="decoder",
    source="made for tests",
    config={
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 256,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
# peft's defaults are for large models; these suit matrices of 64 columns.
SMALL: dict[str, dict[str, Any]] = {
    "adamss": {"r": 16, "num_subspaces": 4},
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 50},
    "road": {"group_size": 8},
    "shira": {"r": 4},
    "unilora": {"theta_d_length": 32},
    "vblora": {"vector_length": 16, "num_vectors": 16},
    "velora": {"velora_config": {"num_groups": 8}},
    "waveft": {"n_frequency": 50},
}
# How many rows AdaMSS puts into each cluster depends on the weights; their sum does not.
BY_VALUE = ("adamss",)
NO_RELOAD = {"xlora": "its experts are files of their own"}
FROM_PEFT = [spec.name for spec in METHODS.values() if spec.peft_type is not None]
ROWS = list(csv.DictReader((Path(__file__).parent / "published_rows.csv").open()))


def candidate(method: str, precision: str = "bf16") -> Candidate:
    training = Training(max_length=32, precision=precision)
    return Candidate(method=method, knobs=SMALL.get(method, {}), training=training)


def tiny(training: Training) -> Any:
    torch.manual_seed(0)
    return build_backbone(TINY, "sft", 2, training, weights=False)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.arange(4, 52).reshape(4, 12)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids.clone()}


def step(asked: Candidate) -> tuple[list[Any], list[Any], torch.Tensor]:
    """Adapt, take a step, and return the shapes of parameters and buffers, and the loss."""
    model = adapt(tiny(asked.training), asked, "sft")
    model.train()
    parameters = [
        (name, tuple(p.shape), p.stride(), p.dtype, p.requires_grad) for name, p in model.named_parameters()
    ]
    buffers = sorted((name, tuple(b.shape), b.dtype) for name, b in model.named_buffers())
    loss = training_step(model, [batch()], make_optimizer(model, asked.training), asked.training)
    return parameters, buffers, loss


def count(parameters: list[Any]) -> int:
    return sum(torch.Size(shape).numel() for _, shape, _, _, trains in parameters if trains)


def test_every_type_of_the_installed_peft_is_a_method() -> None:
    here = {spec.peft_type for spec in METHODS.values()} - {None}
    assert here == {str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING if kind not in OWN_TUNERS}


@pytest.mark.parametrize("spec", PEFT_METHODS, ids=lambda spec: spec.name)
def test_a_row_of_the_table_names_fields_that_peft_has(spec: Any) -> None:
    fields = fields_of(spec.peft_type)
    assert spec.rank_field is None or spec.rank_field in fields
    assert set(spec.knobs) <= {*fields, "experts"}
    assert spec.paper
    assert spec.trains


@pytest.mark.parametrize("method", FROM_PEFT)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_method_is_on_fake_tensors_what_it_is_on_real_ones_and_trains(method: str, precision: str) -> None:
    asked = candidate(method, precision)
    parameters, buffers, loss = step(asked)
    assert torch.isfinite(loss)
    fakes = _FakeMode(allow_non_fake_inputs=True), traced_as("cpu", padded=False), initialised_on_fakes()
    with fakes[0], fakes[1], fakes[2], Recorder():
        fake_parameters, fake_buffers, _ = step(asked)
    assert count(fake_parameters) == count(parameters)
    if method not in BY_VALUE:
        assert fake_parameters == parameters
    assert fake_buffers == buffers


def test_what_initialisers_exchange_is_put_back() -> None:
    first = step(candidate("cpt"))
    with initialised_on_fakes():
        pass
    again = step(candidate("cpt"))
    assert torch.equal(first[2], again[2])
    assert first[0] == again[0]


@pytest.mark.parametrize("method", [name for name in FROM_PEFT if name not in NO_RELOAD])
def test_an_adapter_of_peft_reloads_with_the_same_logits(method: str, tmp_path: Path) -> None:
    asked = candidate(method, "fp32")
    model = adapt(tiny(asked.training), asked, "sft")
    optimizer = make_optimizer(model, asked.training)
    for _ in range(2):
        training_step(model, [batch()], optimizer, asked.training)
    model.eval()
    inputs = {name: value for name, value in batch().items() if name != "labels"}
    with torch.inference_mode():
        expected = model(**inputs).logits
        save_adapter(model, tmp_path)
        loaded = PeftModel.from_pretrained(tiny(asked.training), str(tmp_path)).eval()
        named = {"task_ids": torch.zeros(4, dtype=torch.int64)}
        extra = named if method in ("poly", "multitask_prompt_tuning") else {}
        assert torch.allclose(loaded(**inputs, **extra).logits, expected, atol=1e-4)


@pytest.mark.parametrize("method", [spec.name for spec in PEFT_METHODS if spec.placeable])
def test_a_method_of_peft_adapts_only_the_layers_asked_for(method: str) -> None:
    asked = candidate(method).model_copy(update={"layers": (1,)})
    model = adapt(tiny(asked.training), asked, "sft")
    trained = [n for n, p in model.named_parameters() if p.requires_grad and "xlora_classifier" not in n]
    assert trained
    assert not any(".layers.0." in name for name in trained)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"use_dorra": True}, "has no knob use_dorra .*did you mean use_dora"),
        ({"task_type": "CAUSAL_LM"}, "has no knob task_type"),
        ({"use_dora": "yes"}, "use_dora: .*boolean, but got 'yes'"),
        ({"lora_dropout": [1]}, "lora_dropout"),
        ({"init_lora_weights": "magic"}, "init_lora_weights"),
        ({"use_bdlora": {"nblock": 2}}, "use_bdlora has no field nblock; did you mean nblocks"),
        ({"eva_config": {"rho": 0.5}}, "eva_config: .*rho"),
        ({"use_dora": True, "init_lora_weights": "loftq"}, "cannot be configured so"),
        ({"alpha_ratio": "much"}, "alpha_ratio must be a number"),
    ],
)
def test_a_knob_that_peft_does_not_know_or_take_is_refused(knobs: dict[str, Any], message: str) -> None:
    asked = Candidate(method="lora", knobs=knobs)
    with pytest.raises(InputError, match=message):
        adapt(tiny(asked.training), asked, "sft")


@pytest.mark.parametrize(
    "knobs",
    [
        {"use_dora": True},
        {"use_rslora": True, "lora_alpha": 3},
        {"init_lora_weights": "pissa_niter_2"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "mica"},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "gaussian"},
        {"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"q_proj": 8}},
        {"use_bdlora": {"target_modules_bd_b": ["q_proj", "v_proj"], "nblocks": 2}},
        {"layer_replication": [[0, 2], [0, 2]]},
        {"modules_to_save": ["lm_head"]},
        {"lora_bias": True},
        {"kasa_config": {}},
        {"target_modules": ["q_proj", "down_proj"], "exclude_modules": ["down_proj"]},
    ],
    ids=str,
)
def test_a_variant_of_lora_is_on_fake_tensors_what_it_is_on_real_ones(knobs: dict[str, Any]) -> None:
    asked = Candidate(method="lora", rank=8, knobs=knobs, training=Training(max_length=32))
    assert Candidate.model_validate_json(asked.model_dump_json()).key == asked.key
    parameters, buffers, loss = step(asked)
    assert torch.isfinite(loss)
    fakes = _FakeMode(allow_non_fake_inputs=True), traced_as("cpu", padded=False), initialised_on_fakes()
    with fakes[0], fakes[1], fakes[2], Recorder():
        assert step(asked)[:2] == (parameters, buffers)


def test_an_adapter_is_kept_in_the_dtype_of_the_base_where_that_is_asked() -> None:
    asked = candidate("lora")
    kinds = [
        {p.dtype for p in trainable(adapt(tiny(asked.training), asked, "sft", adapter_fp32=fp32))}
        for fp32 in (True, False)
    ]
    assert kinds == [{torch.float32}, {torch.bfloat16}]


def test_bitfit_trains_biases_and_refuses_a_model_without(tiny_bert: BaseModel) -> None:
    asked = Candidate(method="bitfit", training=Training(max_length=32))
    model = adapt(
        build_backbone(tiny_bert, "classification", 2, asked.training, weights=False), asked, "classification"
    )
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(name.endswith("bias") or name.startswith("classifier") for name in names)
    with pytest.raises(UnsupportedError, match="bitfit trains biases"):
        adapt(tiny(asked.training), asked, "sft")


def test_what_stays_on_the_host_is_named() -> None:
    frod = candidate("frod").model_copy(update={"knobs": {"runtime_offload_base_weight": True}})
    offloaded = adapt(tiny(frod.training), frod, "sft")
    assert len(list(held_on_host(offloaded, moved_whole=True))) == 4
    boft = adapt(tiny(frod.training), candidate("boft"), "sft")
    assert not list(held_on_host(boft, moved_whole=True))
    assert len(list(held_on_host(boft, moved_whole=False))) == 4


def test_methods_that_checkpointing_breaks_say_so() -> None:
    saving = Training(gradient_checkpointing=True)
    for method in ("prefix_tuning", "cartridge"):
        with pytest.raises(UnsupportedError, match="gradient checkpointing"):
            require_support(Candidate(method=method, training=saving), TINY, "sft")


@pytest.mark.parametrize(
    "method", ["prompt_tuning", "prefix_tuning", "p_tuning", "multitask_prompt_tuning", "cartridge"]
)
def test_virtual_tokens_and_the_class_of_an_encoder_decoder_do_not_go_together(method: str) -> None:
    t5 = BaseModel(name="a-t5", family="encoder-decoder", source="", config={"model_type": "t5"})
    require_support(Candidate(method=method), t5, "sft")
    with pytest.raises(
        UnsupportedError, match="use task sft, an encoder, or a method without virtual tokens"
    ):
        require_support(Candidate(method=method), t5, "classification")


def test_a_rank_left_out_is_left_to_peft() -> None:
    assert complete(Candidate(method="vera")).rank is None
    assert complete(Candidate(method="lora")).rank == 16


def _rows() -> ModuleType:
    path = Path(__file__).parents[2] / "experiments" / "003-memory-peft" / "rows.py"
    spec = importlib.util.spec_from_file_location("rows", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["experiment"])
def test_a_published_run_is_a_candidate_with_its_count_of_trained_parameters(row: dict[str, str]) -> None:
    """Source: huggingface/peft, method_comparison/MetaMathQA/results (Apache-2.0), Llama-3.2-3B."""
    base = next(model for model in list_models() if model.name == "Llama-3.2-3B")
    asked = _rows().candidate_of(row["peft_type"], json.loads(row["adapter_config"]), row["opt"])
    with _FakeMode(allow_non_fake_inputs=True), traced_as("cuda", padded=False), initialised_on_fakes():
        model = build_backbone(base, "sft", 2, asked.training, weights=False)
        adapted = adapt(model, asked, "sft", adapter_fp32=row["autocast_adapter"] == "True")
        make_optimizer(adapted, asked.training)
        assert sum(p.numel() for p in trainable(adapted)) == int(row["trainable"])


@pytest.mark.parametrize("method", [spec.name for spec in METHODS.values() if spec.rank_field])
def test_a_method_that_has_a_rank_takes_one(method: str) -> None:
    asked, field = candidate(method, "fp32"), METHODS[method].rank_field
    knobs = {name: value for name, value in asked.knobs.items() if name != field}
    model = adapt(tiny(asked.training), asked.model_copy(update={"rank": 8, "knobs": knobs}), "sft")
    assert trainable(model)
    assert getattr(model.peft_config["default"], str(field)) == 8
