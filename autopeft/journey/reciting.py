"""Reciting: a configuration as the files that other tools train it from."""

from __future__ import annotations

import enum
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from autopeft.errors import InputError, UnsupportedError
from autopeft.export.names import TEST, TRAIN, VALIDATION
from autopeft.export.recipes.subject import Format, Recipe, Subject
from autopeft.export.swap import replacing
from autopeft.files import write_atomically
from autopeft.journey.concluding import Finished
from autopeft.journey.inputs import load_data
from autopeft.message import explain
from autopeft.methods.registry import complete, find_method, require_support
from autopeft.request import Request
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Example, Scale
from autopeft.workload.tasks import TASKS, Task, head_outputs
from autopeft.workload.tokens import Tokenizer, load_tokenizer, render_turn

_SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
_READ: dict[Format, tuple[str, ...]] = {"script": (TRAIN, TEST), "torchtune": (TRAIN,)}
"""Which rows a tool reads, where these are not those to train and to validate on."""

_TURNS_APART: tuple[Format, ...] = ("trl", "unsloth")
"""Tools that mask the prompt of rows that have it beside their completion, and of no others (TRL 1.16)."""


def recipe_of_study(
    request: Request,
    wanted: Format,
    trial: int | None,
    out: Path | None,
    *,
    force: bool,
    elsewhere: bool = False,
) -> Recipe:
    """Write a trial of a study as a recipe: the winner, or that of a number.

    Raises:
        InputError: there is no such trial, or the data is not what the study was made from.
        UnsupportedError: the tool cannot do it, and why.
    """
    done = Finished(request)
    chosen = done.trial(trial)
    base, dataset = load_data(done.request)
    if dataset is not None:
        done.require_same(dataset)
    seed = done.study.seed_of(chosen)
    return _write(chosen.candidate, base, dataset, None, seed, wanted, out, force=force, elsewhere=elsewhere)


def recipe_of_candidate(
    request: Request,
    candidate: Candidate,
    wanted: Format,
    out: Path | None,
    *,
    force: bool,
    elsewhere: bool = False,
) -> Recipe:
    """Write a configuration as a recipe, for the model and the data that a request names.

    Raises:
        InputError: there is no such model.
        UnsupportedError: the tool, or the method, cannot do it, and why.
    """
    base, dataset = load_data(request)
    task, seed = request.task, request.seed
    return _write(candidate, base, dataset, task, seed, wanted, out, force=force, elsewhere=elsewhere)


def candidates_in(source: str) -> list[Candidate]:
    """Read the candidates of a file (- is stdin): one, a plan, or a line for each.

    Raises:
        InputError: it cannot be read, or holds none.
    """
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        try:
            whole: Any = json.loads(text)
        except ValueError:
            whole = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InputError(f"{source} must hold JSON, a configuration or a plan: {error}") from None
    rows = whole.get("fits", [whole]) if isinstance(whole, dict) else whole
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{source} holds no configuration that fits.")
    found = []
    for row in rows:
        fields = row.get("candidate", row) if isinstance(row, dict) else row
        try:
            found.append(Candidate.model_validate(fields))
        except ValidationError as error:
            raise InputError(f"{source}: {explain(error, 'Candidate')}.") from None
    return found


def _write(
    candidate: Candidate,
    base: BaseModel,
    dataset: Dataset | None,
    task: Task | None,
    seed: int,
    wanted: Format,
    out: Path | None,
    *,
    force: bool,
    elsewhere: bool,
) -> Recipe:
    from autopeft.export.recipes.writing import WRITERS

    subject = subject_of(candidate, base, dataset, task, seed)
    unnamed = elsewhere and Path(subject.model).is_absolute()
    if unnamed:
        subject = subject.model_copy(update={"model": base.name})
    recipe = WRITERS[wanted](subject)
    notes = [*recipe.notes]
    if dataset is None or out is None:
        read = _READ.get(wanted, (TRAIN, VALIDATION))
        rows, have = " and ".join(read), "have" if len(read) > 1 else "has"
        flags = "--out DIR" if dataset is not None else "--data FILE --out DIR"
        notes.append(f"{rows} {have} to lie beside this: {flags} writes your rows so")
    if wanted != "script" and subject.own_dropouts:
        notes.append(_dropout_note(subject))
    if _misses_template(subject):
        notes.append(
            "rows are plain prompts and completions, as no chat template of the model is at hand: "
            "if it has one, name the model's directory to train on its turns"
        )
    if unnamed:
        notes.append(f"{base.name} is a directory on the machine that wrote this: name yours in its place")
    recipe = recipe.model_copy(update={"notes": tuple(notes)})
    if out is not None:
        with replacing(out, force=force) as folder:
            for name, text in recipe.files.items():
                write_atomically(folder / name, text)
            if dataset is not None:
                write_rows(folder, dataset, subject, base, wanted)
            else:
                _keep_rows(out, folder)
    return recipe


def _keep_rows(before: Path, folder: Path) -> None:
    """Leave the rows beside a recipe that one without rows replaces: they may be the user's own."""
    for name in _SPLITS.values():
        if (before / name).is_file():
            shutil.copy2(before / name, folder / name)


def _dropout_note(subject: Subject) -> str:
    """Say that a tool leaves the base's own dropout as it is."""
    own = ", ".join(f"{name}={rate:g}" for name, rate in subject.own_dropouts.items())
    rates = " or ".join(sorted({f"{subject.dropouts[name]:g}" for name in subject.own_dropouts}))
    return f"the base keeps its own dropout ({own}), where autopeft has {rates}: --format script sets it"


def _misses_template(subject: Subject) -> bool:
    """Say whether rows would be turns of a chat if the model's template were at hand."""
    return subject.task in ("sft", "dpo") and subject.family == "decoder" and not subject.chat


def subject_of(
    candidate: Candidate, base: BaseModel, dataset: Dataset | None, task: Task | None, seed: int
) -> Subject:
    """Say everything that autopeft decides of a configuration in words that peft knows.

    Raises:
        InputError: a knob, or a place, is not the method's or the model's.
        UnsupportedError: the method does not work on this model or task.
    """
    from autopeft.methods.backbone import dropouts, whole_config
    from autopeft.methods.heads import default_task

    find_method(candidate.method)
    learnt = dataset.task if dataset else task or default_task(base.family, base.config.get("model_type", ""))
    require_support(candidate, base, learnt)
    outputs = dataset.outputs if dataset else head_outputs(learnt, 2)
    full, whole = complete(candidate), whole_config(base)
    dropped = dropouts(whole, candidate.training.dropout)
    fields, chosen = _adapter(full, base, learnt, outputs)
    return Subject(
        model=base.path or base.name,
        name=base.name,
        model_type=str(base.config.get("model_type", "")),
        family=base.family,
        task=learnt,
        outputs=outputs,
        labels=dataset.labels if dataset else (),
        candidate=full,
        adapter=fields,
        chosen=chosen,
        dropouts=dropped,
        own_dropouts={name: own for name, rate in dropped.items() if (own := getattr(whole, name)) != rate},
        chat=_has_template(base),
        scale=dataset.scale if dataset is not None and TASKS[learnt].outputs == "number" else Scale(),
        rows=len(dataset.train) if dataset else 0,
        seed=seed,
    )


def _adapter(
    candidate: Candidate, base: BaseModel, task: Task, outputs: int
) -> tuple[dict[str, JsonValue], tuple[str, ...]]:
    """Return peft's configuration of a candidate without what is None, and which fields were chosen."""
    from autopeft.methods.adapt import adds_adapter, configure_adapter
    from autopeft.methods.backbone import build_shapes

    if not adds_adapter(candidate.method) or find_method(candidate.method).exports != "peft":
        return {}, ()
    model = build_shapes(base, task, max(1, outputs), candidate.training)
    config = configure_adapter(model, candidate, task)
    fields, usual = _plain(config.to_dict()), _plain(type(config)().to_dict())
    chosen = tuple(name for name, value in fields.items() if value != usual.get(name))
    shown = ("peft_type", "task_type", *chosen)
    kept = {name: value for name, value in fields.items() if name in shown or name in ("r", "lora_alpha")}
    return kept, chosen


def _plain(fields: Mapping[str, Any]) -> dict[str, JsonValue]:
    found = {name: _value(value) for name, value in fields.items() if value is not None}
    ours = ("peft_version", "auto_mapping", "base_model_name_or_path", "inference_mode", "runtime_config")
    return {name: value for name, value in found.items() if name not in ours}


def _value(value: Any) -> JsonValue:
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, dict):
        return {str(name): _value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    raise UnsupportedError(
        f"a recipe is made of numbers and words, but this configuration holds a {type(value).__name__}."
    )


def _has_template(base: BaseModel) -> bool:
    """Say whether a model whose tokenizer is at hand renders turns by a template."""
    if base.path is None or not Path(base.path).is_dir():
        return False
    return bool(load_tokenizer(base).chat_template)


def write_rows(folder: Path, dataset: Dataset, subject: Subject, base: BaseModel, wanted: Format) -> None:
    """Write the study's own splits, so that a recipe's score can be held against its trial's.

    Rows of a chat model are turns; for the script, which knows no turns, they are rendered by the template.

    Raises:
        UnsupportedError: the rows are files.
        InputError: the chat template refuses a turn.
    """
    rendered = wanted == "script" and subject.chat and dataset.task == "sft"
    tokenizer = load_tokenizer(base) if rendered else None
    for split, name in _SPLITS.items():
        rows: Iterable[Example] = getattr(dataset, split)
        made = (_row(row, dataset, subject, wanted, tokenizer) for row in rows)
        lines = [json.dumps(row, ensure_ascii=False) for row in made]
        write_atomically(folder / name, "".join(f"{line}\n" for line in lines))


def _row(
    row: Example, dataset: Dataset, subject: Subject, wanted: Format, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    if row.file:
        raise UnsupportedError("rows of files (images, sounds) have no recipe yet: train them with autopeft.")
    if dataset.task == "classification":
        return {"text": row.text, "label": row.label}
    if dataset.task == "regression":
        return {"text": row.text, "number": row.number}
    if tokenizer is not None:
        given, rest = render_turn(tokenizer, row.text, row.completion)
        return {"prompt": given, "completion": rest}
    if dataset.task == "dpo":
        answers = {"chosen": row.completion, "rejected": row.rejected}
    else:
        answers = {"completion": row.completion}
    if not subject.chat:
        prompt = row.text if row.text.endswith(("\n", " ")) else f"{row.text}\n"
        return {"prompt": prompt, **answers}
    question = [{"role": "user", "content": row.text}]
    turns = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
    if wanted in _TURNS_APART:
        return {"prompt": question, **turns}
    return {"messages": [*question, *turns["completion"]]}
