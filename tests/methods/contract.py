"""The contract that every method keeps on every family of models it claims, as functions that return facts.

The models are tiny, random and in fp32; the data are one fixed batch, which anything that learns can learn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner
from recordings import LASTING, UNLIKE, faked, peak_of, real, totals
from torch import nn
from toys import ROWS, backbone, job_of, toy_batch

from autopeft.cost.tracing.take import Job, Take
from autopeft.errors import AutopeftError
from autopeft.methods.adapt import adapt
from autopeft.methods.preparing import prepare
from autopeft.methods.registry import METHODS
from autopeft.methods.starts import save_adapter
from autopeft.train.losses import loss_of
from autopeft.train.step import make_optimizer, training_step
from autopeft.workload.base_model import Family

ABILITIES = ("builds", "trains only its own", "learns", "fake = real", "save/reload", "size", "merge")
MUST = ABILITIES[:-1]
"""What every claimed pair has to hold; merging only where the method says so."""

STEPS = 30
LOGITS_ATOL, MERGED_TOLERANCE = 1e-5, 5e-4
FALL = 0.99
"""Share of its start below which the loss has to fall."""

_ROWS_ALIKE = ("T5's head asks how many rows end alike, which depends on values", 0.001)
# Pairs that differ in temporaries of one operator: why, and by how much the peaks differ.
_UNLIKE_ON: dict[tuple[str, Family], tuple[str, float]] = {
    ("bitfit", "vision"): ("a CPU makes a frozen convolution's gradient together with its bias's", 0.001),
    ("lily", "encoder-decoder"): _ROWS_ALIKE,
    ("probe", "encoder-decoder"): _ROWS_ALIKE,
    ("unipelt", "encoder-decoder"): _ROWS_ALIKE,
}
_BROKEN = (
    *(AutopeftError, AssertionError, AttributeError, ImportError, KeyError, IndexError, NotImplementedError),
    *(OSError, RuntimeError, TypeError, ValueError),
)


class Fact(NamedTuple):
    """Whether something holds, and what was measured or went wrong."""

    holds: bool
    note: str = ""


class Trained(NamedTuple):
    """An adapted model after its steps, and what it was before them."""

    model: nn.Module
    job: Job
    before: dict[str, tuple[torch.Tensor, bool]]
    losses: list[float]


def examine(method: str, family: Family, *, tape: bool = True) -> dict[str, Fact]:
    """Return every fact of the contract for one pair; only "builds" where it does not build.

    Args:
        tape: hold the fake tape against the real one and the file too, which takes the most time.
    """
    job = job_of(method, family)
    trained = _tried(lambda: train(job))
    if isinstance(trained, Fact):
        return {"builds": trained}
    facts = {"builds": Fact(True), "trains only its own": changes(trained), "learns": falls(trained)}
    fake = _tried(lambda: faked(job)) if tape else None
    if tape:
        facts["fake = real"] = fake if isinstance(fake, Fact) else _tried(lambda: same_tape(fake, real(job)))
    with tempfile.TemporaryDirectory() as folder:
        facts["save/reload"] = _tried(lambda: reloads(trained, Path(folder)))
        if tape:
            facts["size"] = fake if isinstance(fake, Fact) else size_is(fake, Path(folder))
    facts["merge"] = merges(trained)
    return facts


def train(job: Job) -> Trained:
    """Adapt the base model, prepare it and take `STEPS` steps, all on the toy batch."""
    training = job.candidate.training
    model = adapt(backbone(job), job.candidate, job.task)
    batch = toy_batch(job, model.config)
    prepare(model, job.candidate, repeat(batch), lambda whole, given: loss_of(whole, given, training))
    model.train()
    before = {name: (p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()}
    optimizer = make_optimizer(model, training)
    losses = [float(training_step(model, [batch], optimizer, training)) for _ in range(STEPS)]
    return Trained(model, job, before, losses)


def changes(trained: Trained) -> Fact:
    """Say whether what trains is the method's own, and has changed, and nothing else has by a bit."""
    after = dict(trained.model.named_parameters())
    moved = {name for name, (value, _) in trained.before.items() if not _alike(value, after[name])}
    own = {name for name, (_, trains) in trained.before.items() if trains}
    if moved - own:
        return Fact(False, f"frozen, but changed: {min(moved - own)}")
    foreign = _foreign(trained, own)
    if foreign:
        return Fact(False, f"not its own, but trained: {min(foreign)}")
    beside_head = {name for name in own if not _of_head(name)}
    return Fact(bool(moved & (beside_head or own)), f"{len(moved)} of {len(own)} trained tensors changed")


def falls(trained: Trained) -> Fact:
    """Say whether the loss fell."""
    first, last = trained.losses[0], sum(trained.losses[-3:]) / 3
    return Fact(last < FALL * first, f"loss {first:.3f} to {last:.3f}")


def same_tape(fake: Take, true: Take) -> Fact:
    """Say whether fake tensors do what real ones do: bytes by category, events, operators and peak."""
    mine, its = totals(fake), totals(true)
    method = fake.job.candidate.method
    if mine == its and peak_of(fake) == peak_of(true):
        return Fact(True)
    apart = abs(peak_of(fake) / peak_of(true) - 1)
    names = ", ".join(name.lower() for name in mine if mine[name] != its[name])
    reason, allowed = UNLIKE.get(method) or _UNLIKE_ON.get((method, fake.job.kind), ("", 0.0))
    # Logits are known by their number of elements, which those of two classes share with other tensors.
    lasting = all(mine[name] == its[name] for name in LASTING if name != "LOGITS")
    note = f"peak {apart:.2%} apart; differs in {names}" + (f": {reason}" if reason else "")
    return Fact(lasting and bool(reason) and apart <= allowed, note)


def reloads(trained: Trained, folder: Path) -> Fact:
    """Say whether the saved adapter, or model, gives the same logits when loaded as a user would."""
    if METHODS[trained.job.candidate.method].exports == "none":
        return Fact(False, "it trains, but peft does not save it so that it loads again")
    expected = logits_of(trained.model, trained.job)
    if isinstance(trained.model, PeftModel):
        save_adapter(trained.model, folder)
    else:
        trained.model.save_pretrained(str(folder))
    if METHODS[trained.job.candidate.method].exports == "model":
        loaded = type(trained.model).from_pretrained(str(folder))
    else:
        loaded = PeftModel.from_pretrained(backbone(trained.job), str(folder))
    apart = float((logits_of(loaded, trained.job) - expected).abs().max())
    return Fact(apart <= LOGITS_ATOL, f"logits {apart:.1e} apart")


def size_is(fake: Take, folder: Path) -> Fact:
    """Say whether the weights in the exported file have the bytes that the cost model predicts."""
    predicted = sum(each.exported for each in fake.parameters)
    written = sum(_weights_in(file) for file in folder.rglob("*.safetensors"))
    return Fact(predicted == written, f"predicted {predicted:,}, written {written:,} bytes")


def merges(trained: Trained) -> Fact:
    """Say whether folding the update into the weights gives the same logits."""
    if not isinstance(trained.model, PeftModel):
        return Fact(False, "it trains the model's own weights: there is nothing to merge")
    if trained.model.active_peft_config.is_prompt_learning:
        return Fact(False, "virtual tokens are no update of weights")
    if not isinstance(trained.model.base_model, BaseTuner):
        return Fact(False, "peft has no merging for it")
    expected = logits_of(trained.model, trained.job)
    try:
        merged = trained.model.merge_and_unload()
    except _BROKEN as error:
        why = str(error).strip().partition("\n")[0].rstrip(".")
        return Fact(False, f"peft cannot: {why}" if why else "peft has no merging for it")
    apart = (logits_of(merged, trained.job) - expected).abs().max() / expected.abs().max().clamp(min=1)
    return Fact(float(apart) <= MERGED_TOLERANCE, f"logits {float(apart):.1e} apart")


@torch.inference_mode()
def logits_of(model: nn.Module, job: Job) -> torch.Tensor:
    """Return the logits of the toy batch; models that read and write are told what they wrote."""
    inputs = toy_batch(job, model.config)
    labels = inputs.pop("labels")
    if job.kind == "encoder-decoder" and job.task == "sft":
        prompted = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
        # peft puts prompts before what it makes of labels, and AdaLoRA's loss is for training only.
        inputs["labels" if prompted else "decoder_input_ids"] = labels
    if METHODS[job.candidate.method].named_task:
        inputs["task_ids"] = torch.zeros(ROWS, dtype=torch.int64)
    logits: torch.Tensor = model.eval()(**inputs).logits
    return logits.clone()


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Say whether two tensors are the same to the bit; torchao's are compared as they are stored."""
    return torch.equal(getattr(one, "qdata", one), getattr(other, "qdata", other))


def _of_head(name: str) -> bool:
    return any(part in name.split(".") for part in ("classifier", "score", "classification_head"))


def _foreign(trained: Trained, own: set[str]) -> set[str]:
    """Return what trains though it is not the method's: weights of the base under an adapter."""
    method = trained.job.candidate.method
    if METHODS[method].exports == "model":
        return {name for name in own if not _may_train(method, name)}
    base = {name for name, _ in backbone(trained.job).named_parameters()}

    def bare(name: str) -> str:
        return name.removeprefix("base_model.").replace(".base_layer", "").replace(".original_module", "")

    return {name for name in own if bare(name) in base or bare(name).removeprefix("model.") in base}


def _may_train(method: str, name: str) -> bool:
    """Say whether a method that trains the model's own weights may train this one."""
    if method == "probe":
        return _of_head(name)
    return method != "bitfit" or name.endswith("bias") or _of_head(name)


def _weights_in(file: Path) -> int:
    """Return the bytes of a safetensors file without its header."""
    with file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
    return file.stat().st_size - 8 - header


def _tried(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except _BROKEN as error:
        line = (str(error).strip() or "no message").partition("\n")[0]
        return Fact(False, f"{type(error).__name__}: {line}")
