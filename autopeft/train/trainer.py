"""The one training recipe, read from top to bottom; it stops, saves and goes on at any step."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from autopeft.errors import StorageError, TrialError
from autopeft.files import make_folder, write_atomically
from autopeft.methods.adapt import adapt
from autopeft.methods.preparing import prepare, put_back
from autopeft.methods.starts import save_adapter
from autopeft.space.candidate import Candidate, Training
from autopeft.train.evaluate import Evaluation, evaluate
from autopeft.train.feed import make_feed
from autopeft.train.meter import Meter
from autopeft.train.optimizer_state import pack_state, unpack_state
from autopeft.train.packing import join_rows
from autopeft.train.result import Report
from autopeft.train.scoring import make_scoring
from autopeft.train.step import Batch, make_optimizer, objective, training_step
from autopeft.train.stock import Stock, load_backbone
from autopeft.workload.base_model import BaseModel
from autopeft.workload.batching import bucketed_batches, pack, require_packable
from autopeft.workload.dataset import Dataset

_STATE, _PROGRESS, _ADAPTER = "state.safetensors", "progress.json", "adapter"


def evaluate_base(
    base: BaseModel, dataset: Dataset, candidate: Candidate, *, device: str = "cpu"
) -> Evaluation:
    """Score the base model as it is, without an adapter, on the test rows."""
    training = candidate.training
    model = load_backbone(base, dataset, candidate)
    feed = make_feed(base, dataset, training)
    return evaluate(
        model.to(torch.device(device)),  # type: ignore[arg-type]
        feed,
        feed.rows("test"),
        make_scoring(base, dataset, training),
        batch_size=training.batch_size,
        device=torch.device(device),
    )


@dataclass(frozen=True, kw_only=True)
class TrainerFactory:
    """Makes trainers in worker processes (a `RunFactory`)."""

    base: BaseModel
    dataset: Dataset
    device: str = "cpu"

    def __call__(self, candidate: Candidate, seed: int) -> Trainer:
        """Load the base model, adapt it and make its rows ready; from the second time on both are at hand."""
        return Trainer(
            *(self.base, self.dataset, candidate), seed=seed, device=self.device, stock=self._stock
        )

    @cached_property
    def _stock(self) -> Stock:
        return Stock(self.base, self.dataset)


class Trainer:
    """Trains one candidate (a `TrialRun`)."""

    def __init__(
        self,
        base: BaseModel,
        dataset: Dataset,
        candidate: Candidate,
        *,
        seed: int,
        device: str = "cpu",
        stock: Stock | None = None,
    ) -> None:
        """Load, adapt and make rows ready; the first `advance` prepares what `restore` has not put back.

        Args:
            stock: has what trials of the same model and data share; the trial is the same without it.

        Raises:
            UnsupportedError: the candidate asks for packed rows, which this model or task cannot have.
        """
        if candidate.training.packing:
            require_packable(base.family, base.config.get("model_type", ""), dataset.task)
        torch.manual_seed(seed)
        self.base, self.dataset, self.candidate, self.seed = base, dataset, candidate, seed
        self.training: Training = candidate.training
        self.device = torch.device(device)
        self.meter = Meter(self.device)
        self.feed = stock.feed(self.training) if stock else make_feed(base, dataset, self.training)
        self._scoring = make_scoring(base, dataset, self.training)
        self._train = self.feed.rows("train")
        self._validation = self.feed.rows("validation")
        self._units = self._packs() if self.training.packing else [[at] for at in range(len(self._train))]
        backbone = stock.backbone(candidate) if stock else load_backbone(base, dataset, candidate)
        self.model = adapt(backbone, candidate, dataset.task).to(self.device)
        self._objective = objective(dataset.task)
        rows_a_step = self.training.batch_size * self.training.grad_accum
        self.total_samples = math.ceil(len(self._train) * self.training.epochs)
        self.total_steps = max(1, math.ceil(math.ceil(len(self._units) * self.training.epochs) / rows_a_step))
        self.samples = self.step = 0
        self._stream = self._batches()
        self._ready = False

    def advance(self, samples: int) -> Report:
        """Train until `samples` rows in all have been seen (or training is over), then evaluate.

        Raises:
            TrialError: the loss is not finite.
        """
        self._make_ready()
        losses = []
        goal = min(samples, self.total_samples)
        with self.meter:
            self.model.train()
            while self.samples < goal:
                losses.append(self._take_step())
            evaluation = self.evaluate("validation")
        return Report(
            samples=goal,
            step=self.step,
            loss=sum(losses) / len(losses) if losses else None,
            score=evaluation.score,
            seconds=self.meter.seconds,
            step_seconds=self.meter.step_seconds,
            peak_bytes=self.meter.peak_bytes,
            extra=evaluation.extra,
        )

    def evaluate(self, split: str) -> Evaluation:
        """Score the model as it is on a split ("validation" or "test")."""
        self._make_ready()
        return evaluate(
            self.model,
            self.feed,
            self._validation if split == "validation" else self.feed.rows(split),
            self._scoring,
            batch_size=self.training.batch_size,
            device=self.device,
        )

    def save(self, folder: Path) -> None:
        """Write the adapter, and what it takes to go on, into `folder`."""
        self._make_ready()
        make_folder(folder)
        weights = {f"weight/{name}": p.detach().contiguous() for name, p in self._kept()}
        moments = {f"optimizer/{name}": value for name, value in pack_state(self.optimizer).items()}
        try:
            save_file({**weights, **moments, **self._dice()}, folder / _STATE)
        except SafetensorError as error:
            raise StorageError(f"{folder / _STATE} cannot be written: {error}.") from None
        progress = {
            "samples": self.samples,
            "step": self.step,
            "seconds": self.meter.seconds,
            "timed_steps": self.meter.steps,
            "stepping_seconds": self.meter.stepping_seconds,
        }
        write_atomically(folder / _PROGRESS, json.dumps(progress))
        if isinstance(self.model, PeftModel):
            save_adapter(self.model, folder / _ADAPTER)

    def restore(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        state = load_file(folder / _STATE)
        kept = {key.removeprefix("weight/"): v for key, v in state.items() if key.startswith("weight/")}
        put_back(self.model, self.candidate, kept)
        self._attach()
        with torch.no_grad():
            for name, tensor in self._kept():
                tensor.copy_(kept[name])
        moments = {
            key.removeprefix("optimizer/"): v for key, v in state.items() if key.startswith("optimizer/")
        }
        unpack_state(self.optimizer, moments)
        torch.set_rng_state(state["rng"])
        if self.device.type == "cuda" and "rng_cuda" in state:
            torch.cuda.set_rng_state(state["rng_cuda"], self.device)
        progress = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
        self.samples, self.step = progress["samples"], progress["step"]
        self.meter.seconds = progress["seconds"]
        self.meter.steps = progress["timed_steps"]
        self.meter.stepping_seconds = progress["stepping_seconds"]
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate, self.step - 1)
        self._stream = self._batches(skip=self.step * self.training.grad_accum)

    def _dice(self) -> dict[str, torch.Tensor]:
        """Return the state of torch's generators: the CPU's draws rows, the device's draws dropout."""
        states = {"rng": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["rng_cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _make_ready(self) -> None:
        """Prepare the model as its method asks, and make its optimizer, once."""
        if self._ready:
            return
        with self.meter:
            prepare(
                *(self.model, self.candidate, (batch for _, batch in self._batches())),
                lambda model, batch: self._objective(model, batch, self.training),
            )
        self._attach()

    def _attach(self) -> None:
        """Make the optimizer of what trains now."""
        self.optimizer = make_optimizer(self.model, self.training)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self._ready = True

    def _take_step(self) -> float:
        started = time.perf_counter()
        batches = [next(self._stream) for _ in range(self.training.grad_accum)]
        loss = float(
            training_step(
                self.model,
                [batch for _, batch in batches],
                self.optimizer,
                self.training,
                of=self._objective,
            )
        )
        if not math.isfinite(loss):
            raise TrialError(
                f"the loss became {loss} at step {self.step} with learning rate "
                f"{self.training.learning_rate:.2g}; a smaller one may hold."
            )
        self.schedule.step()
        self.samples += sum(rows for rows, _ in batches)
        self.step += 1
        self.meter.step_took(time.perf_counter() - started)
        return loss

    def _batches(self, skip: int = 0) -> Iterator[tuple[int, Batch]]:
        """Yield padded batches with their numbers of rows, in an order that the seed alone decides."""
        lengths = [sum(self.feed.length(self._train[at]) for at in unit) for unit in self._units]
        collate = join_rows if self.training.packing else self.feed.collate
        epoch = passed = 0
        while True:
            for chosen in bucketed_batches(lengths, self.training.batch_size, self.seed * 1000 + epoch):
                passed += 1
                if passed > skip:
                    rows = [self._train[at] for index in chosen for at in self._units[index]]
                    batch = collate(rows)
                    yield len(rows), {name: tensor.to(self.device) for name, tensor in batch.items()}
            epoch += 1

    def _kept(self) -> list[tuple[str, torch.Tensor]]:
        """Return what training or a preparation changes: the parameters that train, and buffers."""
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        return [*trained, *self.model.named_buffers()]

    def _packs(self) -> list[list[int]]:
        """Deal the training rows into packs."""
        return pack([self.feed.length(row) for row in self._train], self.training.max_length)

    def _rate(self, step: int) -> float:
        """Return the share of the peak learning rate at a step: linear warm-up, then the schedule."""
        warmup = max(1, round(self.training.warmup_share * self.total_steps))
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, self.total_steps - warmup)
        if self.training.schedule == "constant":
            return 1.0
        if self.training.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return max(0.0, 1.0 - done)
