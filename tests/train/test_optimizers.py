"""Every optimizer of the table steps real tensors, traces, and keeps the states that its table says."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load, save
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from autopeft.cost.tape import Category, Phase
from autopeft.cost.tracing.recorder import Recorder
from autopeft.cost.tracing.shims import traced_as
from autopeft.cost.tracing.trace import _FakeMode
from autopeft.errors import MissingExtraError, UnknownNameError, UnsupportedError
from autopeft.methods.adapt import trainable
from autopeft.space.candidate import Training
from autopeft.space.optimizers import OPTIMIZERS, find_optimizer
from autopeft.train.optimizer_state import pack_state, unpack_state
from autopeft.train.optimizers import make_optimizer, off_device

# Bytes of state of a 64 x 4096 fp32 matrix, by what the libraries document.
VALUES = 64 * 4096
BLOCKS = VALUES // 256
MAP = 256 * 4
STATE_BYTES = {
    "adamw": 8 * VALUES + 4,
    "adamw-fused": 8 * VALUES + 4,
    "adam": 8 * VALUES + 4,
    "adamw-8bit": 2 * VALUES + 8 * BLOCKS + 2 * MAP,
    "paged-adamw": 8 * VALUES,
    "paged-adamw-8bit": 2 * VALUES + 8 * BLOCKS + 2 * MAP,
    "adafactor": 4 * (64 + 4096) + 4,
    "lion": 4 * VALUES,
    "lion-8bit": VALUES + 4 * BLOCKS + MAP,
    "paged-lion": 4 * VALUES,
    "paged-lion-8bit": VALUES + 4 * BLOCKS + MAP,
    "ademamix": 12 * VALUES,
    "ademamix-8bit": 3 * VALUES + 12 * BLOCKS + 2 * MAP,
    "sgd": 0,
    "sgd-momentum": 4 * VALUES,
    "rmsprop": 4 * VALUES + 4,
    "adagrad": 4 * VALUES + 4,
    "muon": 4 * VALUES,
    "galore": 8 * VALUES,
    "apollo": 8 * VALUES,
}
# What a GPU's allocator does not hold of it.
ELSEWHERE = {
    "adamw": 4,
    "adam": 4,
    "rmsprop": 4,
    "adagrad": 4,
    "paged-adamw": 8 * VALUES,
    "paged-adamw-8bit": 2 * VALUES,
    "paged-lion": 4 * VALUES,
    "paged-lion-8bit": VALUES,
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bitsandbytes has no paged memory on a CPU, and says so
        yield


def one_matrix(rows: int = 64, columns: int = 4096) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(columns, rows, bias=False)


def lora(**fields: object) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=100,
    )
    return get_peft_model(LlamaForCausalLM(config), LoraConfig(r=4, lora_alpha=8, **fields))


def make(model: nn.Module, name: str, **fields: float) -> torch.optim.Optimizer:
    return make_optimizer(model, Training(optimizer=name, **fields))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in trainable(model):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def storages(tensors: object) -> int:
    """Return the bytes of tensors, those that share memory once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def states(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]


# Optimizers of LoRA's own matrices; and the one without gradients, which has tests of its own.
OF_LORA, FORWARD_ONLY = {"lora-fa", "lora-plus"}, {"mezo"}
USUAL = sorted(set(OPTIMIZERS) - FORWARD_ONLY)


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - OF_LORA - FORWARD_ONLY))
def test_an_optimizer_moves_weights_towards_less_loss(name: str) -> None:
    torch.manual_seed(0)
    model, wanted, inputs = one_matrix(160, 192), torch.randn(160, 192), torch.randn(256, 192)
    optimizer = make(model, name, learning_rate=0.01)
    losses = []
    for _ in range(8):
        loss = nn.functional.mse_loss(model(inputs), inputs @ wanted.T)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.tensor(losses).isfinite())


@pytest.mark.parametrize("name", sorted(STATE_BYTES))
def test_states_take_what_is_documented_on_real_and_on_fake_tensors(name: str) -> None:
    real = one_matrix()
    optimizer = make(real, name)
    step(real, optimizer)
    assert storages(states(optimizer)) == STATE_BYTES[name]
    assert storages(off_device(optimizer)) == ELSEWHERE.get(name, 0)
    with _FakeMode(allow_non_fake_inputs=True), traced_as("cuda", padded=True):
        fake = one_matrix()
        planned = make(fake, name)
        fake.weight.grad = torch.empty_like(fake.weight)
        planned.step()
        assert storages(states(planned)) == STATE_BYTES[name]
        assert storages(off_device(planned)) == ELSEWHERE.get(name, 0)


@pytest.mark.parametrize("name", USUAL)
def test_an_optimizer_traces_without_a_guess(name: str) -> None:
    with _FakeMode(allow_non_fake_inputs=True), traced_as("cuda", padded=True):
        recorder = Recorder()
        with recorder:
            model = lora() if name in OF_LORA else one_matrix(160, 192)
            optimizer = make(model, name)
            recorder.enter(0, 0, Phase.OPTIMIZER)
            for _ in range(2):
                for parameter in trainable(model):
                    parameter.grad = torch.empty_like(parameter)
                optimizer.step()
        assert not recorder.guesses
        assert recorder.operators
        assert Category.TEMPORARY in recorder.categories or name in ("adamw-fused", "sgd", "sgd-momentum")


def temporaries(name: str) -> int:
    """Return the bytes that the second step allocates."""
    with _FakeMode(allow_non_fake_inputs=True), traced_as("cuda", padded=True):
        recorder = Recorder()
        with recorder:
            model = one_matrix()
            optimizer = make(model, name)
            model.weight.grad = torch.empty_like(model.weight)
            optimizer.step()
            before = len(recorder.sizes)
            optimizer.step()
        return sum(recorder.sizes[before:])


def test_kernels_of_their_own_need_no_temporaries() -> None:
    assert temporaries("adamw") >= 4 * VALUES  # the foreach way takes a square root of all moments
    for name in ("adamw-fused", "adamw-8bit", "paged-adamw", "lion-8bit", "sgd"):
        assert temporaries(name) == 0


def test_bitsandbytes_keeps_small_tensors_in_32_bits() -> None:
    small = one_matrix(1, 4095)
    optimizer = make(small, "adamw-8bit")
    step(small, optimizer)
    assert {state.dtype for state in states(optimizer)} == {torch.float32}
    assert storages(states(optimizer)) == 8 * 4095


def test_a_projection_of_rank_128_holds_the_moments() -> None:
    for name in ("galore", "apollo"):
        for shape, moments in (((160, 512), (128, 512)), ((512, 160), (512, 128))):
            model = one_matrix(*shape)
            optimizer = make(model, name)
            step(model, optimizer)
            (state,) = optimizer.state.values()
            assert state["exp_avg"].shape == state["exp_avg_sq"].shape == torch.Size(moments)


def test_galore_of_a_gradient_of_low_rank_is_adamw_in_its_own_directions() -> None:
    model = one_matrix(200, 300)
    optimizer = make(model, "galore", learning_rate=0.1)
    before = model.weight.detach().clone()
    left, right = torch.randn(200, 3), torch.randn(3, 300)
    model.weight.grad = left @ right
    optimizer.step()
    moved = model.weight.detach() - before
    projection = optimizer.state[model.weight]["projection"]
    torch.testing.assert_close(projection.T @ projection, torch.eye(128), atol=1e-4, rtol=0)
    outside = moved - projection @ (projection.T @ moved)
    assert outside.norm() < 1e-3 * moved.norm()
    # AdamW's first step moves every coordinate by the learning rate; GaLore scales it by 0.25.
    assert (projection.T @ moved)[:3].abs().mean() == pytest.approx(0.025, rel=0.05)


def test_lora_fa_freezes_a_and_moves_b() -> None:
    model = lora(target_modules=["q_proj"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make(model, "lora-fa", learning_rate=0.1)
    assert all("lora_B" in name for name, p in model.named_parameters() if p.requires_grad)
    step(model, optimizer)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora_B" in name}
    assert storages(states(optimizer)) == 2 * sum(4 * p.numel() for p in trainable(model))


@pytest.mark.parametrize("fields", [{"target_modules": ["q_proj"], "use_dora": True}, None])
def test_lora_fa_refuses_what_is_not_plain_lora(fields: dict[str, object] | None) -> None:
    model = one_matrix() if fields is None else lora(**fields)
    with pytest.raises(UnsupportedError, match="choose method lora"):
        make(model, "lora-fa")


def test_lora_plus_moves_b_sixteen_times_as_far_as_a() -> None:
    """Hayou et al. 2024, arXiv:2402.12354: AdamW's first step moves every weight by its learning rate."""
    model = lora(target_modules=["q_proj"])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make(model, "lora-plus", learning_rate=0.01)
    step(model, optimizer)
    moved = {name: float((p.detach() - before[name]).abs().mean()) for name, p in model.named_parameters()}
    for name, distance in moved.items():
        wanted = 0.01 if "lora_A" in name else 0.16 if "lora_B" in name else 0.0
        assert distance == pytest.approx(wanted, rel=1e-3), name
    assert storages(states(optimizer)) == sum(8 * p.numel() + 4 for p in trainable(model))


def test_lora_plus_refuses_what_has_no_b() -> None:
    with pytest.raises(UnsupportedError, match="choose method lora"):
        make(one_matrix(), "lora-plus")


def test_muon_refuses_what_is_no_matrix() -> None:
    with pytest.raises(UnsupportedError, match="matrices only"):
        make(nn.Linear(4, 4), "muon")


def test_a_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtraError, match=r"autopeft\[quant\]"):
        make(one_matrix(), "adamw-8bit")


@pytest.mark.parametrize("name", USUAL)
def test_a_run_goes_on_from_a_saved_state_as_if_it_had_not_stopped(name: str) -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = lora(target_modules=["q_proj"]) if name in OF_LORA else one_matrix(160, 192)
        return model, make(model, name, learning_rate=0.01)

    whole, optimizer = fresh()
    for seed in range(2):
        step(whole, optimizer, seed)
    packed = load(save(pack_state(optimizer)))
    again, other = fresh()
    for target, source in zip(again.parameters(), whole.parameters(), strict=True):
        target.data.copy_(source.data)
    unpack_state(other, packed)
    step(whole, optimizer, 2)
    step(again, other, 2)
    for target, source in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(target, source)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("AdamW", "adamw"),
        ("adamw_torch", "adamw"),
        ("adamw_torch_fused", "adamw-fused"),
        ("adamw_8bit", "adamw-8bit"),
        ("adamw_bnb_8bit", "adamw-8bit"),
        ("AdamW8bit", "adamw-8bit"),
        ("paged_adamw_32bit", "paged-adamw"),
        ("PagedAdamW8bit", "paged-adamw-8bit"),
        ("lion_32bit", "lion"),
        ("paged_lion_8bit", "paged-lion-8bit"),
        ("galore_adamw", "galore"),
        ("apollo_adamw", "apollo"),
        ("SGD", "sgd"),
        ("lora_fa", "lora-fa"),
    ],
)
def test_the_names_of_other_tools_are_known(alias: str, name: str) -> None:
    assert find_optimizer(alias).name == name


@pytest.mark.parametrize("name", ["adamv", "", "adamw-4bit", "../adamw;"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown optimizer"):
        find_optimizer(name)


def test_no_two_rows_share_a_name() -> None:
    names = [alias for spec in OPTIMIZERS.values() for alias in (spec.name, *spec.aliases)]
    assert sorted(find_optimizer(name).name for name in names) == sorted(
        spec.name for spec in OPTIMIZERS.values() for _ in (spec.name, *spec.aliases)
    )
