"""Sparse updates: the entries that the papers choose, stored as values and places, merged by adding them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from autopeft.errors import InputError
from autopeft.methods.adapt import adapt
from autopeft.methods.backbone import build_backbone
from autopeft.methods.masks import Gated
from autopeft.methods.preparing import prepare
from autopeft.methods.sparse import SparseLayer, _product, _spread
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.base_model import BaseModel

TRAINING = Training(max_length=16, learning_rate=1e-2)
MASKS = ("fish", "lt-sft", "diff-pruning")
ROWS, STEPS = 6, 4


def bare(base: BaseModel) -> Any:
    torch.manual_seed(0)
    return build_backbone(base, "classification", 2, TRAINING, weights=False)


def batches(size: int = 3) -> Iterator[dict[str, torch.Tensor]]:
    dice = torch.Generator().manual_seed(0)
    while True:
        words = torch.randint(4, 90, (size, 8), generator=dice)
        yield {"input_ids": words, "labels": (words[:, 0] > 45).long()}


def loss(model: Any, batch: Any) -> torch.Tensor:
    found: torch.Tensor = model(**batch).loss
    return found


def prepared(base: BaseModel, method: str, share: float = 0.02, **knobs: Any) -> Any:
    own = {"fish": {"rows": ROWS}, "lt-sft": {"steps": STEPS}, "diff-pruning": {"steps": STEPS}}[method]
    candidate = Candidate(method=method, knobs={"share": share, **own, **knobs}, training=TRAINING)
    model = adapt(bare(base), candidate, "classification")
    prepare(model, candidate, batches(), loss)
    return model


def layers_of(model: Any) -> dict[str, SparseLayer]:
    found = model.base_model.model.named_modules()
    return {name: module for name, module in found if isinstance(module, SparseLayer)}


def chosen(model: Any) -> set[tuple[str, int]]:
    return {
        (name, int(place))
        for name, layer in layers_of(model).items()
        for place in layer.sparse_places["default"]
    }


def test_fish_chooses_the_entries_with_the_largest_squared_gradients_of_single_rows(tiny_bert) -> None:
    model = prepared(tiny_bert, "fish")
    plain = bare(tiny_bert)
    wanted = {name: plain.get_submodule(name).weight for name in layers_of(model)}
    squares = {name: torch.zeros_like(weight) for name, weight in wanted.items()}
    single = itertools.islice(batches(), ROWS // 3)
    for batch in single:
        for row in range(3):
            plain.zero_grad()
            loss(plain, {name: value[row : row + 1] for name, value in batch.items()}).backward()
            for name, weight in wanted.items():
                squares[name] += weight.grad**2
    scored = [(float(v), name, i) for name, s in squares.items() for i, v in enumerate(s.flatten())]
    best = {(name, i) for _, name, i in sorted(scored, reverse=True)[: len(chosen(model))]}
    assert len(best & chosen(model)) >= 0.99 * len(best)  # ties and rounding at the border


def test_lt_sft_chooses_what_training_of_all_entries_moves_most(tiny_bert) -> None:
    model = prepared(tiny_bert, "lt-sft")
    plain = bare(tiny_bert).train()
    start = {name: plain.get_submodule(name).weight.detach().clone() for name in layers_of(model)}
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(name.removesuffix(".weight") in start or name.startswith("classifier"))
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=TRAINING.learning_rate, weight_decay=0.0)
    for batch in itertools.islice(batches(), STEPS):
        loss(plain, batch).backward()
        torch.nn.utils.clip_grad_norm_(trained, TRAINING.max_grad_norm)
        optimizer.step()
        plain.zero_grad()
    moved = {name: (plain.get_submodule(name).weight - value).abs() for name, value in start.items()}
    scored = [(float(v), name, i) for name, m in moved.items() for i, v in enumerate(m.flatten())]
    best = {(name, i) for _, name, i in sorted(scored, reverse=True)[: len(chosen(model))]}
    assert len(best & chosen(model)) >= 0.95 * len(best)  # the first steps of Adam move many alike


@pytest.mark.parametrize("method", MASKS)
def test_a_preparation_keeps_the_number_of_entries_and_the_model(method, tiny_bert) -> None:
    model = prepared(tiny_bert, method)
    layers, plain = layers_of(model), bare(tiny_bert)
    usual = sum(max(1, round(0.02 * layer.entries)) for layer in layers.values())
    assert len(chosen(model)) == usual
    for name, value in plain.named_parameters():
        held = model.base_model.model.get_submodule(name.rpartition(".")[0])
        held = getattr(held, "base_layer", getattr(held, "original_module", held))
        assert torch.equal(getattr(held, name.rpartition(".")[2]), value)
    head = model.base_model.model.classifier.modules_to_save["default"]
    assert torch.equal(head.weight, plain.classifier.weight)
    assert all(layer.dense is None for layer in layers.values())
    values = torch.cat([layer.sparse_values["default"] for layer in layers.values()])
    assert bool(values.any()) == (method == "diff-pruning")  # the others are rewound


@pytest.mark.parametrize("method", MASKS)
def test_a_prepared_adapter_reloads_and_merges_with_the_same_logits(
    method, tiny_bert, tmp_path: Path
) -> None:
    model = prepared(tiny_bert, method).eval()
    for layer in layers_of(model).values():
        torch.nn.init.normal_(layer.sparse_values["default"])
    assert (
        len({layer.sparse_values["default"].numel() / layer.entries for layer in layers_of(model).values()})
        > 1
    )
    words = next(batches())["input_ids"]
    with torch.no_grad():
        expected = model(input_ids=words).logits
        model.save_pretrained(str(tmp_path))
        loaded = PeftModel.from_pretrained(bare(tiny_bert), str(tmp_path)).eval()
        assert torch.allclose(loaded(input_ids=words).logits, expected, atol=1e-6)
        model.merge_adapter()
        assert torch.allclose(model(input_ids=words).logits, expected, atol=1e-5)
        model.unmerge_adapter()
        assert torch.allclose(model(input_ids=words).logits, expected, atol=1e-5)
        assert torch.allclose(model.merge_and_unload()(input_ids=words).logits, expected, atol=1e-5)
    held = sum(layer.sparse_values["default"].numel() for layer in layers_of(loaded).values())
    head = loaded.base_model.model.classifier.modules_to_save["default"]
    size = 8 * held + 4 * sum(p.numel() for p in head.parameters())
    written = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert size <= written <= size + 20_000  # values and places of four bytes, the head, and a header


def test_gradients_of_a_sparse_product_are_those_of_the_whole_matrix_at_its_places() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    values = torch.randn(4, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([0, 7, 13, 19], dtype=torch.int32)
    assert torch.autograd.gradcheck(lambda x, v: _product(x, v, places, (4, 5)), (hidden, values))
    whole = torch.zeros(20, dtype=torch.float64)
    whole[places.long()] = values.detach()
    assert torch.equal(_spread(values.detach(), places, (4, 5)), whole.view(4, 5))
    assert torch.allclose(_product(hidden, values, places, (4, 5)), hidden @ whole.view(4, 5).T)


def test_the_expected_number_of_open_gates_is_what_drawing_them_gives() -> None:
    """P(z > 0) = sigmoid(alpha - log(-l / r)) (Guo et al. 2021, equation 4; Louizos et al. 2018)."""
    torch.manual_seed(0)
    gated = Gated(SparseLayer(torch.nn.Linear(200, 200)), torch.device("cpu")).train()
    torch.nn.init.ones_(gated.weight)
    for openness in (-2.0, 0.0, 1.0):
        torch.nn.init.constant_(gated.openness, openness)
        drawn = float((gated() != 0).float().mean())
        assert drawn == pytest.approx(float(gated.expected_open()) / 40_000, abs=0.01)
    assert float(gated().max()) <= 1


def test_a_price_on_open_gates_closes_them(tiny_bert) -> None:
    """With the price so high that it outweighs the loss, every gate moves towards closing."""
    candidate = Candidate(
        method="diff-pruning", knobs={"steps": 5, "penalty": 10.0, "share": 0.02}, training=TRAINING
    )
    model = adapt(bare(tiny_bert), candidate, "classification")
    seen: list[float] = []

    def watched(whole: Any, batch: Any) -> torch.Tensor:
        seen.append(sum(float(each.expected_open()) for each in whole.modules() if isinstance(each, Gated)))
        return loss(whole, batch)

    prepare(model, candidate, batches(), watched)
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] < seen[0]


@pytest.mark.parametrize("share", [0, 1.5])
def test_a_share_that_is_none_is_refused(share, tiny_bert) -> None:
    with pytest.raises(InputError, match="share must lie above 0 and up to 1"):
        adapt(bare(tiny_bert), Candidate(method="fish", knobs={"share": share}), "classification")
