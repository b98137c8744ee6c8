"""Our own methods against their papers: their parameters, where they start, what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autopeft.cost.tracing.initialisers import initialised_on_fakes
from autopeft.cost.tracing.shims import traced_as
from autopeft.cost.tracing.trace import _FakeMode
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel
from autopeft.workload.models import find_model

TRAINING = Training(max_length=32)
# Width, inner width and layers of a BERT-base.
D, F, N = 768, 3072, 12


def adapted(base: BaseModel, method: str, **asked: Any) -> Any:
    torch.manual_seed(0)
    model = build_backbone(base, "classification", 2, TRAINING, weights=False)
    return adapt(model, Candidate(method=method, training=TRAINING, **asked), "classification")


def adapter(size: int, width: int = D) -> int:
    """Return 2 m d + d + m (Houlsby et al. 2019, section 2.1)."""
    return 2 * size * width + width + size


def prefix(tokens: int) -> int:
    """Return a key and a value of each token."""
    return 2 * tokens * D


GATE = D + 1
# Parameters at BERT-base without the head, by method and knobs.
FORMULAS: list[tuple[str, dict[str, Any], int]] = [
    ("houlsby", {"size": 64}, N * 2 * adapter(64)),
    ("pfeiffer", {"size": 48}, N * adapter(48)),
    ("adapterdrop", {"size": 48, "dropped": 5}, (N - 5) * adapter(48)),
    ("parallel_adapter", {"size": 16}, N * adapter(16)),
    # Karimi Mahabadi et al. 2021, section 4.3: 4 (k + d) / 2 an adapter, the n^3 shared; then the biases.
    ("compacter", {"size": 32, "division": 4}, N * 2 * (2 * (32 + D) + 32 + D) + 4**3),
    ("mam", {"prefix": 16, "parallel": 16}, N * (prefix(16) + adapter(16))),
    ("unipelt", {"prefix": 10, "serial": 48}, N * (prefix(10) + adapter(48) + 2 * 2 * 8 * D + 4 * GATE)),
    ("autopeft-2024", {"serial": 4, "parallel": 64, "prefix": 0}, N * (adapter(4) + adapter(64))),
    ("autopeft-2024", {"serial": 0, "parallel": 0, "prefix": 2}, N * prefix(2)),
    # Of four d x d and two d x f matrices in each layer, half a percent of each.
    ("fish", {"share": 0.005}, N * (4 * round(0.005 * D * D) + 2 * round(0.005 * D * F))),
    # Biases of query, key, value, output, both of the feed-forward, two norms; embeddings' norm and pooler.
    ("bitfit", {}, N * (4 * D + F + D + 2 * D) + D + D),
]


@pytest.fixture(scope="module")
def bert_base() -> BaseModel:
    return find_model("bert-base-uncased")


@pytest.mark.parametrize(("method", "knobs", "expected"), FORMULAS, ids=str)
def test_a_bert_base_has_the_parameters_of_the_formula(method, knobs, expected, bert_base) -> None:
    with _FakeMode(allow_non_fake_inputs=True), traced_as("cpu", padded=True), initialised_on_fakes():
        model = adapted(bert_base, method, knobs=knobs)
    own = [p for name, p in model.named_parameters() if p.requires_grad and "classifier" not in name]
    assert sum(p.numel() for p in own) == expected


def test_unipelt_has_the_share_of_a_bert_base_that_its_paper_prints() -> None:
    """1.26 % of 110 M (Mao et al. 2021, section 4.4), of which a gate more or less is 0.01 %."""
    (expected,) = (parameters for method, _, parameters in FORMULAS if method == "unipelt")
    assert expected / 110e6 == pytest.approx(0.0126, abs=3e-4)


def words() -> torch.Tensor:
    return torch.arange(4, 52).reshape(4, 12)


# Those that add a prefix start beside the base model, as their papers say of prefixes: its share of
# attention is there from the start. What they start with beside it is zero.
STARTING_AS_THE_BASE = [
    ("houlsby", {}),
    ("pfeiffer", {}),
    ("adapterdrop", {"dropped": 1}),
    ("parallel_adapter", {}),
    ("compacter", {}),
    ("lst", {}),
    ("bitfit", {}),
    ("fish", {}),
    ("lt-sft", {}),
    ("diff-pruning", {}),
    ("autopeft-2024", {"prefix": 0}),
]


@pytest.mark.parametrize(("method", "knobs"), STARTING_AS_THE_BASE, ids=str)
def test_the_adapted_model_starts_as_the_base_model(method, knobs, tiny_bert) -> None:
    torch.manual_seed(0)
    plain = build_backbone(tiny_bert, "classification", 2, TRAINING, weights=False).eval()
    with torch.inference_mode():
        expected = plain(input_ids=words()).logits
        assert torch.allclose(
            adapted(tiny_bert, method, knobs=knobs).eval()(input_ids=words()).logits, expected, atol=1e-6
        )


@pytest.mark.parametrize("method", ["mam", "unipelt", "autopeft-2024"])
def test_a_hybrid_without_its_prefix_starts_as_the_base_model(method, tiny_bert) -> None:
    torch.manual_seed(0)
    plain = build_backbone(tiny_bert, "classification", 2, TRAINING, weights=False).eval()
    with torch.inference_mode():
        expected = plain(input_ids=words()).logits
        without = adapted(tiny_bert, method, knobs={"prefix": 0}).eval()(input_ids=words()).logits
        whole = adapted(tiny_bert, method).eval()(input_ids=words()).logits
    assert torch.allclose(without, expected, atol=1e-6)
    assert not torch.allclose(whole, expected, atol=1e-6)


def test_bitfit_s_update_is_one_of_biases_only(tiny_bert) -> None:
    model = adapted(tiny_bert, "bitfit")
    own = {name for name, p in model.named_parameters() if p.requires_grad and "classifier" not in name}
    assert own == {
        name for name, _ in model.named_parameters() if name.endswith("bias") and "classifier" not in name
    }


def test_the_backward_of_a_side_network_never_touches_the_backbone(tiny_bert) -> None:
    """No gradient reaches a module of the backbone's layers, and no node of autograd holds its tensors."""
    model = adapted(tiny_bert, "lst").train()
    for parameter in trainable(model):
        nn.init.normal_(parameter, std=0.1)
    layers = [module.base_layer for module in model.modules() if type(module).__name__ == "LadderLayer"]
    inner = [each for layer in layers for each in layer.modules()]
    reached: list[nn.Module] = []
    made: list[torch.Tensor] = []
    for module in inner:
        module.register_full_backward_hook(lambda module, left, right: reached.append(module))
        module.register_forward_hook(
            lambda module, args, out: made.extend(
                each for each in (out, *args) if isinstance(each, torch.Tensor)
            )
        )
    loss = model(input_ids=words(), labels=torch.tensor([0, 1, 0, 1])).loss
    frozen = {id(p) for layer in layers for p in layer.parameters()}
    assert made
    assert all(each.grad_fn is None for each in made)
    held, waiting = set(), [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in held:
            continue
        held.add(node)
        waiting += [following for following, _ in node.next_functions]
    leaves = {id(node.variable) for node in held if hasattr(node, "variable")}
    assert leaves == {id(p) for p in trainable(model)}
    assert not leaves & frozen
    loss.backward()
    assert not reached
