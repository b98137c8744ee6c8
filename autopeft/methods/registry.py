"""The methods autopeft knows, as data: one visible table, torch-free."""

from __future__ import annotations

from autopeft.errors import InputError, UnknownNameError, UnsupportedError
from autopeft.methods.spec import Knob, MethodSpec
from autopeft.space.candidate import Candidate
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Task

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
    ),
    MethodSpec(
        name="ia3",
        family="additive",
        paper="Liu et al. 2022, arXiv:2205.05638",
        trains="a scale for each key, value and feed-forward feature",
        placeable=True,
        default_targets="key+value+down",
        mergeable=True,
    ),
    MethodSpec(
        name="prompt_tuning",
        family="additive",
        paper="Lester et al. 2021, arXiv:2104.08691",
        trains="virtual tokens put before the input embeddings",
        knobs={"virtual_tokens": _TOKENS},
    ),
    MethodSpec(
        name="prefix_tuning",
        family="additive",
        paper="Li and Liang 2021, arXiv:2101.00190",
        trains="virtual keys and values in every layer",
        knobs={"virtual_tokens": _TOKENS},
    ),
    MethodSpec(
        name="ln_tuning",
        family="selective",
        paper="Zhao et al. 2023, arXiv:2312.11420",
        trains="the normalisation layers",
        placeable=True,
        default_targets="norms",
        mergeable=True,
    ),
    MethodSpec(
        name="bottleneck",
        family="additive",
        paper="Houlsby et al. 2019, arXiv:1902.00751",
        trains="a small two-layer network behind each target matrix",
        placeable=True,
        default_targets="output+down",
        knobs={"size": Knob(default=32, choices=(8, 16, 32, 64), meaning="width of the bottleneck")},
        exports="autopeft",
    ),
    MethodSpec(
        name="full",
        family="baseline",
        paper="the upper end of every comparison",
        trains="all weights",
        exports="model",
    ),
    MethodSpec(
        name="probe",
        family="baseline",
        paper="the lower end of every comparison",
        trains="the classification head only",
        exports="model",
        tasks=("classification",),
    ),
)

METHODS: dict[str, MethodSpec] = {spec.name: spec for spec in _SPECS}

DEFAULT = Candidate(method="lora", rank=16, targets="query+value", knobs={"alpha_ratio": 2.0})
"""What people copy: LoRA with r=16 and alpha=32 on query and value."""


def find_method(name: str) -> MethodSpec:
    """Return a method's row.

    Raises:
        UnknownNameError: there is no such method.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS, hint="`autopeft methods` lists them.")
    return METHODS[name]


def complete(candidate: Candidate) -> Candidate:
    """Fill in what a candidate leaves to its method: rank, targets and knobs.

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
    if unknown:
        have = ", ".join(spec.knobs) or "none"
        raise InputError(f"{spec.name} has no knob {', '.join(unknown)}; it has: {have}.")
    return candidate.model_copy(
        update={
            "rank": candidate.rank or spec.default_rank,
            "targets": candidate.targets or spec.default_targets,
            "knobs": {name: knob.default for name, knob in spec.knobs.items()} | candidate.knobs,
        }
    )


def require_support(candidate: Candidate, base: BaseModel, task: Task) -> None:
    """Check that a method works on this kind of model, task and quantisation.

    Raises:
        UnsupportedError: it does not, and why.
    """
    spec = find_method(candidate.method)
    if base.family not in spec.families:
        allowed = " or ".join(spec.families)
        raise UnsupportedError(f"{spec.name} works on {allowed} models; {base.name} is {base.family}.")
    if task not in spec.tasks:
        raise UnsupportedError(f"{spec.name} is for {' and '.join(spec.tasks)}, not for {task}.")
    if task == "sft" and base.family != "decoder":
        raise UnsupportedError(f"sft needs a decoder model; {base.name} is {base.family}.")
    if candidate.quantization != "none":
        raise UnsupportedError(
            f"quantization {candidate.quantization!r} cannot be planned or trained yet; use none."
        )
    if candidate.method == "prefix_tuning" and candidate.training.gradient_checkpointing:
        raise UnsupportedError("prefix_tuning does not work with gradient checkpointing.")
