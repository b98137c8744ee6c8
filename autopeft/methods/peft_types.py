"""The methods that peft has and autopeft hands a configuration to, as data: one visible table, torch-free.

Ranks, targets and knobs that a candidate leaves out are peft's own; a knob stands here only where
peft has no default for it, or where its default would train nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from autopeft.methods.spec import EVERY_FAMILY, TEXT_FAMILIES, Knob, MethodFamily, MethodSpec
from autopeft.workload.base_model import Family
from autopeft.workload.tasks import TASKS, Task


class _Matrix(NamedTuple):
    """A method that stands at matrices of the model: its row, without what all these share."""

    name: str
    paper: str
    trains: str
    rank_field: str | None = "r"
    mergeable: bool = True
    family: MethodFamily = "reparameterised"
    knobs: dict[str, Knob] = {}
    families: tuple[Family, ...] = EVERY_FAMILY
    named_task: bool = False
    tasks: tuple[Task, ...] = tuple(TASKS)


_TOTAL_STEP = Knob(default=1000, choices=(1000,), meaning="optimizer steps over which the rank is spread")
_MATRIX = (
    _Matrix(
        "adalora",
        "Zhang et al. 2023, arXiv:2303.10512",
        "update P Lambda Q, whose rank is spread over the matrices by importance",
        rank_field="target_r",
        knobs={"total_step": _TOTAL_STEP},
    ),
    _Matrix("adamss", "Zheng et al. 2025, NeurIPS", "a low-rank update in each cluster of a matrix's rows"),
    _Matrix(
        "beft",
        "arXiv:2509.15974",
        "a bias behind each target matrix",
        rank_field=None,
        mergeable=False,  # peft merges it into biases only, which many models do not have
        family="additive",
    ),
    _Matrix(
        "boft",
        "Liu et al. 2023, arXiv:2311.06243",
        "rotations of each matrix as a product of butterfly factors",
        rank_field=None,
    ),
    _Matrix(
        "c3a",
        "Chen et al. 2024, arXiv:2407.19342",
        "a block-circulant update, one kernel for each block",
        rank_field=None,
        knobs={"block_size": Knob(default=256, choices=(64, 128, 256), meaning="size of a block")},
    ),
    _Matrix(
        "deft",
        "Kumar et al. 2025, NeurIPS",
        "a learnt direction taken out of each matrix, and what is put in its place",
    ),
    _Matrix("delora", "Bini et al. 2025, arXiv:2503.18225", "normalised low-rank update and its strength"),
    _Matrix(
        "fourierft",
        "Gao et al. 2024, arXiv:2405.03003",
        "a few Fourier coefficients of each update",
        rank_field=None,
    ),
    _Matrix(
        "frod",
        "doi:10.1609/aaai.v40i31.39813",
        "scales and sparse rotations in a basis shared by the layers",
        rank_field=None,
    ),
    _Matrix("glora", "Chavan et al. 2023, arXiv:2306.07967", "scales, shifts and updates of weight and bias"),
    _Matrix("gralora", "Jung et al. 2025, arXiv:2505.20355", "a low-rank update of each block of a matrix"),
    _Matrix(
        "hira",
        "openreview.net/pdf?id=TwJrTz9cRS",
        "a low-rank matrix that multiplies the weights elementwise",
    ),
    _Matrix("hra", "Yuan et al. 2024, arXiv:2405.17484", "a chain of Householder reflections of each matrix"),
    _Matrix(
        "lily",
        "arXiv:2407.09946",
        "low-rank updates whose factors layers share, mixed by a router",
        mergeable=False,
        tasks=("classification", "regression"),  # its router reads all tokens of a batch, later ones too
    ),
    _Matrix("loha", "Hyeon-Woo et al. 2021, arXiv:2108.06098", "elementwise product of two low-rank updates"),
    _Matrix("lokr", "Yeh et al. 2023, arXiv:2309.14859", "Kronecker product of small matrices"),
    _Matrix("miss", "Kang and Yin 2024, arXiv:2409.15371", "one matrix shared by the shards of an update"),
    _Matrix("oft", "Qiu et al. 2023, arXiv:2306.07280", "a block-diagonal rotation of each matrix"),
    _Matrix(
        "osf",
        "Nayak et al. 2025, arXiv:2504.07097",
        "the weak singular directions of each matrix, orthogonal to the strong ones",
        rank_field=None,
    ),
    _Matrix(
        "peanut",
        "Zhong et al. 2024, arXiv:2410.01870",
        "a small network that makes the update from the weights",
    ),
    _Matrix(
        "poly",
        "Ponti et al. 2022, arXiv:2202.13914",
        "an inventory of LoRA skills and their mixture for each task",
        mergeable=False,
        families=TEXT_FAMILIES,  # only these are told by peft's wrapper which task a row is of
        named_task=True,
    ),
    _Matrix(
        "psoft", "openreview.net/forum?id=FSHrinMArK", "a rotation of the principal subspace of each matrix"
    ),
    _Matrix("pvera", "arXiv:2512.07703", "VeRA whose inner activations are drawn from a learnt distribution"),
    _Matrix(
        "randlora", "Albert et al. 2025, arXiv:2502.00987", "scales of random bases that add to full rank"
    ),
    _Matrix(
        "road",
        "Liao and Monz 2024, arXiv:2409.00119",
        "rotations of pairs of features behind each matrix",
        rank_field=None,
    ),
    _Matrix("shira", "Bhardwaj et al. 2024, arXiv:2406.13175", "a sparse set of entries of each matrix"),
    _Matrix(
        "supertuning",
        "arXiv:2607.09287",
        "a sparse set of entries of each matrix, chosen by magnitude",
    ),
    _Matrix("tinylora", "arXiv:2602.04118", "a tiny vector projected into the singular subspace"),
    _Matrix("unilora", "arXiv:2506.00799", "one vector projected into all LoRA factors"),
    _Matrix("vblora", "Li et al. 2024, arXiv:2405.15179", "a bank of vectors mixed into all LoRA factors"),
    _Matrix(
        "vera", "Kopiczko et al. 2023, arXiv:2310.11454", "scales of random factors shared by all layers"
    ),
    _Matrix(
        "waveft",
        "Bilican et al. 2025, arXiv:2505.12532",
        "a few wavelet coefficients of each update",
        rank_field=None,
    ),
)

_TOKENS = Knob(default=16, choices=(8, 16, 32), meaning="number of trained virtual tokens")
_PROMPT = Knob(default=10, choices=(10, 30, 100), meaning="virtual tokens in each adapted layer")
_ADAPTION_PROMPT = MethodSpec(
    name="adaption_prompt",
    family="additive",
    paper="Zhang et al. 2023, arXiv:2303.16199 (LLaMA-Adapter)",
    trains="virtual tokens attended to behind a gate in the last layers",
    peft_type="ADAPTION_PROMPT",
    knobs={"adapter_len": _PROMPT},
    families=("decoder",),
    tasks=("sft",),
)
_OTHERS = (
    _ADAPTION_PROMPT,
    _ADAPTION_PROMPT.model_copy(update={"name": "llama-adapter"}),
    MethodSpec(
        name="cartridge",
        family="additive",
        paper="Eyuboglu et al. 2025, arXiv:2506.06266",
        trains="a cache of keys and values put before the input",
        peft_type="CARTRIDGE",
        knobs={"num_virtual_tokens": _TOKENS},
        checkpointing=False,
        families=TEXT_FAMILIES,
    ),
    MethodSpec(
        name="cpt",
        family="additive",
        paper="Blau et al. 2024, arXiv:2410.17222",
        trains="embeddings of a context, within a small distance of where they start",
        peft_type="CPT",
        knobs={"num_virtual_tokens": _TOKENS},
        families=("decoder",),
        tasks=("sft",),
    ),
    MethodSpec(
        name="multitask_prompt_tuning",
        family="additive",
        paper="Wang et al. 2023, arXiv:2303.02861",
        trains="virtual tokens shared by tasks, and a low-rank scale for each task",
        peft_type="MULTITASK_PROMPT_TUNING",
        rank_field="num_ranks",
        has_rank=True,
        named_task=True,
        knobs={"num_virtual_tokens": _TOKENS},
        families=TEXT_FAMILIES,
    ),
    MethodSpec(
        name="p_tuning",
        family="additive",
        paper="Liu et al. 2021, arXiv:2103.10385",
        trains="virtual tokens made by a small network",
        peft_type="P_TUNING",
        knobs={"num_virtual_tokens": _TOKENS},
        families=TEXT_FAMILIES,
    ),
    MethodSpec(
        name="shadow",
        family="additive",
        paper="ShadowPEFT",
        trains="a small network beside the model that rides its layers",
        peft_type="SHADOW",
        rank_field="r",
        has_rank=True,
        families=("decoder",),
    ),
    MethodSpec(
        name="trainable_tokens",
        family="selective",
        paper="peft",
        trains="the embeddings of a few tokens, the special ones by default",
        peft_type="TRAINABLE_TOKENS",
        mergeable=True,
        families=("decoder", "encoder-decoder"),
        tasks=("sft",),
    ),
    MethodSpec(
        name="xlora",
        family="reparameterised",
        paper="Buehler and Buehler 2024, arXiv:2402.07148",
        trains="a classifier that mixes LoRA experts, and the experts where they are new",
        peft_type="XLORA",
        has_rank=True,
        default_rank=8,
        placeable=True,
        default_targets="query+value",
        knobs={"experts": Knob(default=4, choices=(2, 4, 8), meaning="number of new experts")},
        exports="none",
        families=("decoder",),
        tasks=("sft",),
    ),
)

PEFT_METHODS: tuple[MethodSpec, ...] = (
    *(
        MethodSpec(
            name=row.name,
            family=row.family,
            paper=row.paper,
            trains=row.trains,
            has_rank=row.rank_field is not None,
            placeable=True,
            peft_type=row.name.upper(),
            rank_field=row.rank_field,
            knobs=row.knobs,
            mergeable=row.mergeable,
            families=row.families,
            named_task=row.named_task,
            tasks=row.tasks,
        )
        for row in _MATRIX
    ),
    *_OTHERS,
)
