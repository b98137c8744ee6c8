"""MeZO: its slope is the directional derivative, it undoes what it does to look, and it keeps nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autopeft.cost.loops import LOOPS
from autopeft.cost.tracing.take import Job, Take
from autopeft.errors import UnsupportedError
from autopeft.methods.adapt import adapt, trainable
from autopeft.methods.backbone import build_backbone
from autopeft.methods.registry import complete
from autopeft.space.candidate import Candidate, Training
from autopeft.train import mezo
from autopeft.train.mezo import Mezo
from autopeft.train.step import forward_loss, make_optimizer, training_step
from autopeft.workload.base_model import BaseModel

sys.path.append(str(Path(__file__).parents[1] / "cost" / "tracing"))
from recordings import faked, peak_of, real, totals

TRAINING = Training(optimizer="mezo", learning_rate=1e-3, max_length=16, batch_size=4)


def model_of(base: BaseModel) -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone(base, "classification", 2, TRAINING, weights=False)
    return adapt(backbone, Candidate(method="full"), "classification").double()


def batch(seed: int = 0) -> dict[str, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(4, 90, (4, 8), generator=dice), "labels": torch.tensor([0, 1, 1, 0])}


def values(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainable(model)])


def direction(optimizer: Mezo) -> torch.Tensor:
    return torch.cat([drawn.flatten() for _, _, drawn in optimizer._directions()])


def test_the_slope_is_the_directional_derivative_and_the_step_goes_down_along_it(
    tiny_bert, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mezo, "_DISTANCE", 1e-6)  # at the usual one, curvature shows
    model = model_of(tiny_bert).eval()
    forward_loss(model, batch(), TRAINING).backward()
    gradient = torch.cat([p.grad.flatten() for p in trainable(model)])
    model.zero_grad()
    optimizer = make_optimizer(model, TRAINING)
    assert isinstance(optimizer, Mezo)
    before, z = values(model), direction(optimizer)
    training_step(model, [batch()], optimizer, TRAINING)
    wanted = float(gradient @ z)
    assert torch.allclose(values(model) - before, -TRAINING.learning_rate * wanted * z, rtol=1e-4, atol=1e-9)
    assert not torch.equal(direction(optimizer), z)  # the next step looks elsewhere


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_looking_leaves_the_parameters_as_they_were_up_to_rounding(dtype, tiny_bert) -> None:
    model = model_of(tiny_bert).to(dtype)
    before = values(model)
    optimizer = Mezo(trainable(model), lr=1e-3, weight_decay=0.0)
    loss = optimizer.probe(lambda: forward_loss(model, batch(), TRAINING))
    assert float((values(model) - before).abs().max()) <= 4 * torch.finfo(dtype).eps * float(
        before.abs().max()
    )
    assert float(loss) == pytest.approx(float(forward_loss(model, batch(), TRAINING)), rel=1e-3)
    assert all(p.grad is None for p in model.parameters())


def test_micro_batches_share_one_direction_so_they_are_one_batch(tiny_bert) -> None:
    parts = [batch(0), batch(1)]
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    moved = []
    for given, count in (([whole], 1), (parts, 2)):
        training = TRAINING.model_copy(update={"grad_accum": count})
        model = model_of(tiny_bert)
        training_step(model, given, make_optimizer(model, training), training)
        moved.append(values(model))
    assert torch.allclose(*moved, atol=1e-9)


def test_many_steps_lower_the_loss(tiny_bert) -> None:
    training = TRAINING.model_copy(update={"learning_rate": 2e-3})
    model = model_of(tiny_bert).train()
    optimizer = make_optimizer(model, training)
    losses = [float(training_step(model, [batch()], optimizer, training)) for _ in range(60)]
    assert sum(losses[-5:]) < 0.99 * sum(losses[:5])
    assert model.training


def job(base: BaseModel, optimizer: str, loop: str = "autopeft", **fields: object) -> Job:
    training = TRAINING.model_copy(update={"optimizer": optimizer, **fields})
    candidate = complete(Candidate(method="full", training=training))
    return Job(base, candidate, "classification", 2, "cpu", True, LOOPS[loop], ((2, 8), (2, 16)))


@pytest.mark.slow
def test_its_tape_has_no_gradients_and_keeps_no_activations(tiny_bert) -> None:
    """Memory is that of inference and of one more copy of the largest parameter."""
    takes: dict[str, Take] = {name: faked(job(tiny_bert, name)) for name in ("mezo", "sgd")}
    held = totals(takes["mezo"])
    assert held["GRADIENTS"] == held["SAVED"] == held["OPTIMIZER"] == 0
    assert totals(takes["sgd"])["GRADIENTS"] >= held["ADAPTER"]
    assert held == totals(real(job(tiny_bert, "mezo")))
    model = model_of(tiny_bert).float()
    widest = max(4 * p.numel() for p in trainable(model))
    assert peak_of(takes["mezo"]) < held["ADAPTER"] + held["WEIGHTS"] + widest + 60_000
    assert peak_of(takes["mezo"]) < 0.6 * peak_of(takes["sgd"])


@pytest.mark.slow
def test_more_micro_batches_and_checkpointing_take_no_more(tiny_bert) -> None:
    plain = peak_of(faked(job(tiny_bert, "mezo")))
    more = peak_of(faked(job(tiny_bert, "mezo", grad_accum=2, gradient_checkpointing=True)))
    assert more == pytest.approx(plain, rel=0.02)


def test_another_loop_than_autopeft_s_has_no_such_step(tiny_bert) -> None:
    with pytest.raises(UnsupportedError, match="mezo steps without backward"):
        faked(job(tiny_bert, "mezo", loop="trainer"))


def test_a_step_without_a_look_is_refused(tiny_bert) -> None:
    with pytest.raises(RuntimeError, match="let it probe the loss"):
        make_optimizer(model_of(tiny_bert), TRAINING).step()


def test_each_seed_walks_along_directions_of_its_own() -> None:
    def walked(seed: int) -> torch.Tensor:
        parameter = nn.Parameter(torch.zeros(8))
        optimizer = Mezo([parameter], lr=0.1, weight_decay=0.0, seed=seed)
        optimizer.probe(parameter.sum)
        optimizer.step()
        return parameter.detach()

    assert torch.equal(walked(0), walked(0))
    assert not torch.allclose(walked(0), walked(1))
