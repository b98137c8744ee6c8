"""What each switch of a configuration would save or cost, by estimating the changed question."""

from __future__ import annotations

from autopeft.cost.loops import LOOPS, Loop
from autopeft.journey.answering import Answering
from autopeft.journey.posing import loop_of
from autopeft.plan.answer import Explanation, Switch
from autopeft.plan.question import Question

Change = dict[str, object]


def explain(question: Question, answering: Answering) -> Explanation:
    """Answer a question and each of its changes."""
    (answer,) = answering.answers([question])
    if answer.memory is None:
        return Explanation(question=question, answer=answer, switches=())
    length = question.seq_len or answering.poser.pose(question).candidate.training.max_length
    changes = [*_settings(question, length), *_other_loops(question), *_details(question)]
    changed = [question.model_copy(update=change) for _, change in changes]
    switches = []
    for (name, change), other in zip(changes, answering.answers(changed), strict=True):
        saved = answer.memory.device_peak_bytes - other.memory.device_peak_bytes if other.memory else None
        switches.append(Switch(name=name, change=change, saved_bytes=saved, answer=other))
    return Explanation(question=question, answer=answer, switches=tuple(switches))


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
    changes += [(name, {"loss": loss}) for loss, name in losses if loss != question.loss]
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
