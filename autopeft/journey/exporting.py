"""Exporting: a trained trial as a directory that others load."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autopeft.errors import InputError
from autopeft.export.bundle import Bundle, Evaluated, Export, Fidelity
from autopeft.journey.concluding import Finished
from autopeft.journey.conclusion import versions
from autopeft.journey.contest import evaluated
from autopeft.journey.inputs import Inputs, require_dataset
from autopeft.journey.keeping import claimed
from autopeft.journey.pairing import lead
from autopeft.journey.refitting import is_refit, refitted
from autopeft.journey.workspace import existing_study
from autopeft.methods.heads import head_name
from autopeft.request import Request
from autopeft.search.study import Trial
from autopeft.tracking.mlflow_lookup import run_of
from autopeft.workload.tasks import TASKS

if TYPE_CHECKING:
    from torch import nn

    from autopeft.export.converting import After, Judge
    from autopeft.train.trainer import Trainer


def export_trial(request: Request, tracking_uri: str, experiment: str, asked: Export) -> Bundle:
    """Export a trial of a study: the winner, or that of a number; nobody else runs or exports it meanwhile.

    Args:
        tracking_uri, experiment: where MLflow keeps the trial's run.

    Raises:
        ClaimedError: another process runs or exports the study.
        InputError: no such trial was trained to the end.
        UnsupportedError: the method has no such form.
        ExportError: the place is taken, or the export does not reproduce the model.
    """
    from autopeft.export.push import require_hub_id

    if asked.push is not None:
        require_hub_id(asked.push)
    # The latest study may be another one a moment later.
    name = existing_study(request.workspace, request.study).path.name
    request = request.model_copy(update={"study": name})
    with claimed(request):
        return _export(Finished(request), tracking_uri, experiment, asked)


def _export(done: Finished, tracking_uri: str, experiment: str, asked: Export) -> Bundle:
    from autopeft.export.push import push, require_public_base

    chosen = done.trial(asked.trial)
    inputs = done.inputs()
    if asked.push is not None and asked.form != "merged":
        require_public_base(asked.base_model or inputs.base.path or "")
    _require_possible(done, chosen, asked)
    refit = is_refit(done, chosen) if asked.refit is None else asked.refit
    done.scores()
    with done.stages.timed("export"):
        if refit:
            trainer = refitted(done, chosen, inputs)
            earned = evaluated(chosen.number, trainer.evaluate("test"), trainer.dataset)
        else:
            trainer = done.trained(chosen, inputs)
            earned = done.evaluated(chosen, trainer)
        run = run_of(tracking_uri, experiment, done.study, chosen.number)
        draft = _draft(done, chosen, inputs, earned, asked, run)
        if refit:
            draft = draft.model_copy(update={"refit_rows": len(trainer.dataset.train)})
        made = _write(draft, trainer, earned, inputs, asked)
    if asked.model_name is not None:
        _register(made, tracking_uri, experiment, run, asked.model_name)
    if asked.push is not None:
        push(Path(made.path), asked.push, asked.base_model)
    return made


def _register(made: Bundle, tracking_uri: str, experiment: str, run: str | None, name: str) -> None:
    """Log a bundle into its trial's run.

    Raises:
        InputError: the store does not have that run.
    """
    from autopeft.tracking.mlflow_model import log_model
    from autopeft.tracking.mlflow_store import open_client, open_experiment

    if run is None:
        raise InputError(
            f"the bundle {made.path} is written, but MLflow at {tracking_uri} has no run of trial "
            f"{made.trial} to log it into: `autopeft sync` writes what is missing."
        )
    client = open_client(tracking_uri)
    log_model(tracking_uri, open_experiment(client, experiment, tracking_uri), run, Path(made.path), name)


def _write(draft: Bundle, trainer: Trainer, earned: Evaluated, inputs: Inputs, asked: Export) -> Bundle:
    from autopeft.export.as_lora import fill_lora
    from autopeft.export.converting import write_converted
    from autopeft.export.merged import fill_merged
    from autopeft.export.writer import write_bundle

    judge, after = _judge(earned, inputs), _gguf(draft, asked)
    match asked.form:
        case "merged":
            filler = partial(fill_merged, dtype=asked.dtype)
            return write_converted(draft, trainer, filler, judge, after=after, force=asked.force)
        case "lora":
            of_rank = partial(fill_lora, rank=asked.lora_rank)
            return write_converted(draft, trainer, of_rank, judge, after=after, force=asked.force)
        case "adapter":
            return write_bundle(draft, trainer, evaluated=earned, after=after, force=asked.force)


def _judge(trained: Evaluated, inputs: Inputs) -> Judge:
    """Return what scores a form on the test rows and holds it against what was trained."""
    from autopeft.journey.rescoring import score_of

    dataset = require_dataset(inputs)

    def judge(model: nn.Module, bundle: Bundle, fidelity: Fidelity) -> tuple[Evaluated | None, Fidelity]:
        if bundle.form == "merged" and TASKS[bundle.task].reference:
            return None, fidelity  # its score compares with the base, which is not there any more
        found = score_of(model, bundle, inputs.base, dataset)
        one, other = np.array(found.facts), np.array(trained.facts)
        change, low, high = lead(dataset.metric, one, other)
        whole = dataset.metric.interval == "proportion"
        moved = float(((one[:, 0] > 0) != (other[:, 0] > 0)).mean()) if whole else None
        measured = {"score": found.score, "change": change, "low": low, "high": high, "moved": moved}
        return found, fidelity.model_copy(update=measured)

    return judge


def _gguf(draft: Bundle, asked: Export) -> After | None:
    """Return what adds a file for llama.cpp; its converter is looked for before anything takes time."""
    if not asked.gguf:
        return None
    from autopeft.export.gguf import require_gguf, write_gguf

    form = {"form": asked.form, **({"format": "model"} if asked.form == "merged" else {})}
    converter = require_gguf(draft.model_copy(update=form))
    return lambda folder, bundle: write_gguf(folder, bundle, converter)


def _draft(
    done: Finished, chosen: Trial, inputs: Inputs, earned: Evaluated, asked: Export, run: str | None
) -> Bundle:
    from autopeft.export.writer import bundle_format

    dataset = require_dataset(inputs)
    return Bundle.build(
        path=str(_place(done, chosen, asked)),
        format=bundle_format(chosen.candidate.method),
        model=inputs.base.name,
        base=inputs.base.path or "",
        task=dataset.task,
        head=head_name(inputs.base.family, dataset.task, inputs.base.config.get("model_type", "")) or "",
        labels=dataset.labels,
        candidate=chosen.candidate,
        budget=done.request.budget,
        predicted=chosen.predicted,
        measured=chosen.result,
        metric=dataset.metric,
        test_score=earned.score,
        low=earned.low,
        high=earned.high,
        further=earned.further,
        tested=done.kept_scores().configurations(done.study),
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        seed=done.study.seed_of(chosen),
        study=done.study.name,
        trial=chosen.number,
        chosen=_is_winner(done, chosen),
        request=_portable(done.request),
        mlflow_run=run,
        license=asked.license,
        versions=versions(),
    )


def _require_possible(done: Finished, chosen: Trial, asked: Export) -> None:
    """Check what can be checked before anything takes time.

    Raises:
        ExportError: the place is taken, or the method has no export.
    """
    from autopeft.export.swap import require_free
    from autopeft.export.writer import require_exportable

    require_free(_place(done, chosen, asked), force=asked.force)
    if asked.form == "adapter":
        require_exportable(chosen.candidate.method)


def _place(done: Finished, chosen: Trial, asked: Export) -> Path:
    number = None if _is_winner(done, chosen) else chosen.number
    return Path(asked.out) if asked.out else done.folder.exported(number, asked.form)


def _is_winner(done: Finished, chosen: Trial) -> bool:
    best = done.study.best
    return best is not None and best.number == chosen.number


def _portable(request: Request) -> Request:
    """Return what a study was asked without where it was run."""
    usual = Request()
    places = ("workspace", "study", "resume", "address", "storage", "mlflow")
    return request.model_copy(update={name: getattr(usual, name) for name in places})
