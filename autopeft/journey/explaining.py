"""What each switch of a configuration would change, and which would make it fit, by estimating each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from autopeft.cost.loops import LOOPS, Loop
from autopeft.journey.answering import Answering
from autopeft.journey.posing import loop_of
from autopeft.plan.answer import Answer, Explanation, Switch
from autopeft.plan.question import Question

Change = dict[str, object]


def answer(question: Question, answering: Answering) -> Answer:
    """Answer a question; where it does not fit and batches are looked for, say what would make it fit."""
    (found,) = answering.answers([question])
    if found.fits is not False or not answering.batches:
        return found
    changes = list(_ways_out(question))
    loop = loop_of(question)
    if loop.logits_chunk or (question.loss or loop.loss) == "fused":
        answering = replace(answering, batches=False)  # each batch would be a trace of its own
    others = answering.answers([question.model_copy(update=change) for _, change in changes])
    way_out, largest = None, found.max_batch_size or 0
    for (words, _), other in zip(changes, others, strict=True):
        if other.fits:
            way_out = words
            break
        if (other.max_batch_size or 0) > largest:
            largest = other.max_batch_size or 0
            way_out = f"{words} and a batch of {largest}"
    fewer = found.max_batch_size or 0
    ways = [*([f"a batch of {fewer}"] if fewer else []), *([way_out] if way_out else [])]
    return found.model_copy(update={"way_out": ", or with ".join(ways) or None})


def _ways_out(question: Question) -> Iterator[tuple[str, Change]]:
    """List what may make a question fit, what changes least first."""
    recomputed: Change = {"gradient_checkpointing": True}
    packed: Change = {"quantization": "nf4-dq"}
    if not question.gradient_checkpointing:
        yield "gradient checkpointing", recomputed
    if question.quantization == "none" and question.method != "full":
        yield "a base in nf4-dq", packed
        if not question.gradient_checkpointing:
            yield "gradient checkpointing and a base in nf4-dq", {**recomputed, **packed}


def explain(
    question: Question, answering: Answering, on_answer: Callable[[Answer], None] | None = None
) -> Explanation:
    """Answer a question and each of its changes; `on_answer` is told the answer before the changes."""
    found = answer(question, answering)
    if on_answer is not None:
        on_answer(found)
    if found.memory is None:
        return Explanation(question=question, answer=found, switches=())
    length = question.seq_len or answering.poser.pose(question).candidate.training.max_length
    changes = [*_settings(question, length), *_other_loops(question), *_details(question)]
    changed = [question.model_copy(update=change) for _, change in changes]
    switches = []
    for (name, change), other in zip(changes, answering.answers(changed), strict=True):
        saved = found.memory.device_peak_bytes - other.memory.device_peak_bytes if other.memory else None
        switches.append(Switch(name=name, change=change, saved_bytes=saved, answer=other))
    return Explanation(question=question, answer=found, switches=tuple(switches))


def _settings(question: Question, length: int) -> list[tuple[str, Change]]:
    """List the changes of the settings themselves; what is on is switched off."""
    on, optimizer = question.gradient_checkpointing, question.optimizer
    changes: list[tuple[str, Change]] = [
        (
            "without gradient checkpointing" if on else "gradient checkpointing",
            {"gradient_checkpointing": not on},
        )
    ]
    if question.quantization == "none":
        changes += [
            ("weights in nf4", {"quantization": "nf4"}),
            ("weights in int8", {"quantization": "int8"}),
        ]
    else:
        changes.append(("weights not quantised", {"quantization": "none"}))
    if optimizer != "adamw-8bit":
        changes.append(("8-bit AdamW", {"optimizer": "adamw-8bit"}))
    if optimizer not in (None, "adamw"):
        changes.append(("AdamW", {"optimizer": "adamw"}))
    losses = (
        ("standard", "standard loss"),
        ("chunked", "chunked loss"),
        ("fused", "fused loss"),
    )
    now = question.loss or loop_of(question).loss
    changes += [(name, {"loss": loss}) for loss, name in losses if loss != now]
    if question.attention != "eager":
        changes.append(("eager attention", {"attention": "eager"}))
    else:
        changes.append(("sdpa attention", {"attention": "sdpa"}))
    if length > 1:
        changes.append((f"half the length ({length // 2})", {"seq_len": length // 2}))
    batch = question.batch_size
    if batch > 1:
        changes.append((f"half the batch ({batch // 2})", {"batch_size": batch // 2}))
    changes.append((f"twice the batch ({2 * batch})", {"batch_size": 2 * batch}))
    return changes


def _other_loops(question: Question) -> list[tuple[str, Change]]:
    now = loop_of(question).name
    return [(f"loop {name}", {"loop": name, "details": {}}) for name in LOOPS if name != now]


def _details(question: Question) -> list[tuple[str, Change]]:
    """List each yes-or-no detail of the loop, turned round."""
    loop = loop_of(question)
    return [
        (f"{'without' if getattr(loop, name) else 'with'} {name}", {"details": turned})
        for name, field in Loop.model_fields.items()
        if field.annotation is bool
        for turned in [{**question.details, name: not getattr(loop, name)}]
    ]
