"""The methods autopeft knows, as data: one visible table, torch-free."""

from __future__ import annotations

from autopeft.errors import InputError, UnknownNameError, UnsupportedError
from autopeft.methods.abilities import with_abilities
from autopeft.methods.heads import default_task, head_family
from autopeft.methods.lora_variants import LACKING, LORA_VARIANTS
from autopeft.methods.own_methods import OWN_METHODS
from autopeft.methods.peft_types import PEFT_METHODS
from autopeft.methods.quantization.schemes import find_quantization
from autopeft.methods.spec import EVERY_FAMILY, TEXT_FAMILIES, Knob, MethodSpec
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.tasks import TASKS, Task

_ALPHA = Knob(default=2.0, choices=(1.0, 2.0), meaning="lora_alpha divided by the rank: scale of the update")
_TOKENS = Knob(default=16, choices=(8, 16, 32), meaning="number of trained virtual tokens")

_SPECS = (
    MethodSpec(
        name="lora",
        family="reparameterised",
        paper="Hu et al. 2021, arXiv:2106.09685",
        trains="low-rank update B A of each target matrix",
        has_rank=True,
        default_rank=16,
        placeable=True,
        default_targets="query+value",
        knobs={"alpha_ratio": _ALPHA},
        mergeable=True,
        peft_type="LORA",
        rank_field="r",
        families=EVERY_FAMILY,
    ),
    MethodSpec(
        name="rslora",
        family="reparameterised",
        paper="Kalajdzievski 2023, arXiv:2312.03732",
        trains="LoRA whose scale is alpha / sqrt(rank)",
        has_rank=True,
        default_rank=16,
        placeable=True,
        default_targets="query+value",
        knobs={"alpha_ratio": _ALPHA},
        mergeable=True,
        peft_type="LORA",
        rank_field="r",
        families=EVERY_FAMILY,
    ),
    MethodSpec(
        name="dora",
        family="reparameterised",
        paper="Liu et al. 2024, arXiv:2402.09353",
        trains="LoRA for the direction, and a magnitude for each column",
        has_rank=True,
        default_rank=16,
        placeable=True,
        default_targets="query+value",
        knobs={"alpha_ratio": _ALPHA},
        mergeable=True,
        peft_type="LORA",
        rank_field="r",
        families=EVERY_FAMILY,
    ),
    MethodSpec(
        name="ia3",
        family="additive",
        paper="Liu et al. 2022, arXiv:2205.05638",
        trains="a scale for each key, value and feed-forward feature",
        placeable=True,
        default_targets="key+value+down",
        mergeable=True,
        peft_type="IA3",
        families=EVERY_FAMILY,
    ),
    MethodSpec(
        name="prompt_tuning",
        family="additive",
        paper="Lester et al. 2021, arXiv:2104.08691",
        trains="virtual tokens put before the input embeddings",
        knobs={"virtual_tokens": _TOKENS},
        peft_type="PROMPT_TUNING",
        families=TEXT_FAMILIES,
    ),
    MethodSpec(
        name="prefix_tuning",
        family="additive",
        paper="Li and Liang 2021, arXiv:2101.00190",
        trains="virtual keys and values in every layer",
        knobs={"virtual_tokens": _TOKENS},
        peft_type="PREFIX_TUNING",
        checkpointing=False,
        families=TEXT_FAMILIES,
    ),
    MethodSpec(
        name="ln_tuning",
        family="selective",
        paper="Zhao et al. 2023, arXiv:2312.11420",
        trains="the normalisation layers",
        placeable=True,
        default_targets="norms",
        mergeable=True,
        peft_type="LN_TUNING",
        families=EVERY_FAMILY,
    ),
    MethodSpec(
        name="full",
        family="baseline",
        paper="the upper end of every comparison",
        trains="all weights",
        exports="model",
        families=EVERY_FAMILY,
    ),
    MethodSpec(
        name="probe",
        family="baseline",
        paper="the lower end of every comparison",
        trains="the classification head only",
        exports="model",
        tasks=("classification", "regression", "token-classification"),
        families=EVERY_FAMILY,
    ),
    MethodSpec(
        name="bitfit",
        family="selective",
        paper="Ben Zaken et al. 2021, arXiv:2106.10199",
        trains="the biases that the model has",
        exports="model",
        families=EVERY_FAMILY,
    ),
)

METHODS: dict[str, MethodSpec] = {
    spec.name: with_abilities(spec) for spec in (*_SPECS, *LORA_VARIANTS, *OWN_METHODS, *PEFT_METHODS)
}

# Knobs that say how many tokens, or keys and values, a method puts before those of every row.
_TOKEN_KNOBS = ("virtual_tokens", "num_virtual_tokens", "prefix")
# Of these, the knobs of methods that put tokens before a row and no keys into its attention.
_VIRTUAL = frozenset(("virtual_tokens", "num_virtual_tokens"))

DEFAULT = Candidate(method="lora", rank=16, targets="query+value", knobs={"alpha_ratio": 2.0})
"""What people copy: LoRA with r=16 and alpha=32 on query and value."""


def learns(spec: MethodSpec, family: Family, task: Task) -> bool:
    """Say whether a method works on a family of models for a task."""
    return family in spec.families and task in spec.tasks and _unsuited(spec, task) is None


def _unsuited(spec: MethodSpec, task: Task) -> str | None:
    """Say why a method cannot learn a task, whatever the model; None where it can."""
    needs = TASKS[task]
    if not needs.virtual_tokens and _VIRTUAL & set(spec.knobs):
        return (
            f"{spec.name} puts virtual tokens before a row, which {task} has no labels for: "
            "choose a method that does not."
        )
    if not needs.named_tasks and spec.named_task:
        return f"{spec.name} needs the number of a row's task, which peft does not pass on for {task}."
    if needs.reference and (spec.exports == "model" or spec.moves_base):
        changed = "trains the model itself" if spec.exports == "model" else "changes its weights at the start"
        return (
            f"{task} compares with the model without its adapter, and {spec.name} {changed}: "
            "choose a method that adds an adapter to the model as it is."
        )
    return None


def find_method(name: str) -> MethodSpec:
    """Return a method's row.

    Raises:
        UnknownNameError: there is no such method.
        UnsupportedError: peft has it, and autopeft has not.
    """
    if name in LACKING:
        raise UnsupportedError(f"{name} is not among autopeft's methods: {LACKING[name]}.")
    if name not in METHODS:
        hint = "`autopeft methods` lists them, and qlora is lora on a base in nf4-dq."
        raise UnknownNameError("method", name, METHODS, hint=hint)
    return METHODS[name]


def complete(candidate: Candidate) -> Candidate:
    """Fill in what a candidate leaves to its method: rank, targets, layers and knobs.

    What the method leaves to peft stays open. Knobs of methods that peft has are checked when a model
    is adapted, since only peft knows them.

    Raises:
        InputError: it sets something that its method does not have.
    """
    spec = find_method(candidate.method)
    if candidate.rank is not None and not spec.has_rank:
        raise InputError(f"{spec.name} has no rank, but got rank={candidate.rank}; leave it out.")
    if not spec.placeable and (candidate.targets is not None or candidate.layers != "all"):
        raise InputError(
            f"{spec.name} chooses its own place, but got targets={candidate.targets!r}, "
            f"layers={candidate.layers!r}; leave them out."
        )
    unknown = sorted(set(candidate.knobs) - set(spec.knobs))
    if unknown and spec.peft_type is None:
        have = ", ".join(spec.knobs) or "none"
        raise InputError(f"{spec.name} has no knob {', '.join(unknown)}; it has: {have}.")
    full = candidate.model_copy(
        update={
            "rank": candidate.rank or spec.default_rank,
            "targets": candidate.targets or spec.default_targets,
            "knobs": {name: knob.default for name, knob in spec.knobs.items()} | candidate.knobs,
        }
    )
    if "dropped" not in spec.knobs or candidate.layers != "all":
        return full
    return full.model_copy(update={"layers": f"{int(number_of(full, 'dropped'))}-"})


def number_of(candidate: Candidate, knob: str, *, least: float = 0) -> float:
    """Return a knob that is a number.

    Raises:
        InputError: it is none, or below `least`.
    """
    value = candidate.knobs[knob]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
        raise InputError(
            f"{candidate.method}'s knob {knob} must be a number from {least:g}, but got {value!r}."
        )
    return value


def virtual_tokens(candidate: Candidate) -> int:
    """Return how many virtual tokens a complete candidate puts before those of every row."""
    given = candidate.knobs.get("cpt_token_ids")
    if isinstance(given, list):
        return len(given)
    found = next((candidate.knobs[name] for name in _TOKEN_KNOBS if name in candidate.knobs), 0)
    return int(found) if isinstance(found, int | float) else 0


def require_head(base: BaseModel, task: Task) -> Family:
    """Check that a kind of model has the head of a task; return the kind.

    Raises:
        UnsupportedError: it has not.
    """
    model_type = base.config.get("model_type", "")
    kind = head_family(base.family, model_type)
    if kind not in TASKS[task].heads:
        needed, usual = " or ".join(TASKS[task].heads), default_task(base.family, model_type)
        raise UnsupportedError(
            f"{task} needs a {needed} model, but {base.name} is {kind}: choose another model, or a task "
            f"that it can learn, such as {usual}."
        )
    return kind


def require_support(candidate: Candidate, base: BaseModel, task: Task) -> None:
    """Check that a method works on this kind of model, task and quantisation.

    Raises:
        UnsupportedError: it does not, and why.
    """
    spec = find_method(candidate.method)
    if base.family not in spec.families:
        allowed = " or ".join(spec.families)
        raise UnsupportedError(f"{spec.name} works on {allowed} models; {base.name} is {base.family}.")
    reason = _unsuited(spec, task)
    if reason is not None:
        raise UnsupportedError(reason)
    if candidate.training.packing and _VIRTUAL & set(spec.knobs):
        raise UnsupportedError(
            f"{spec.name} puts virtual tokens before a row, of which packed rows would share one set: "
            "leave packing out."
        )
    if task not in spec.tasks:
        raise UnsupportedError(f"{spec.name} is for {' and '.join(spec.tasks)}, not for {task}.")
    kind = require_head(base, task)
    if _VIRTUAL & set(spec.knobs) and TASKS[task].new_head and kind == "encoder-decoder":
        raise UnsupportedError(
            f"{spec.name} puts virtual tokens before the input, but the new head of {base.name}, an "
            "encoder-decoder, looks for its end among the tokens themselves: use task sft, an encoder, or "
            "a method without virtual tokens."
        )
    packed = find_quantization(candidate.quantization).packed
    if packed is not None and packed not in spec.quantised:
        raise UnsupportedError(
            f"{spec.name} does not work on a base in {candidate.quantization}: {spec.unpacked_reason}; leave "
            f"out the quantisation, or take another method (`autopeft methods --quantization {packed}`)."
        )
    if candidate.training.gradient_checkpointing and not spec.checkpointing:
        raise UnsupportedError(f"{spec.name} does not work with gradient checkpointing.")
