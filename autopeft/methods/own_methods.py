"""The methods that peft does not have and autopeft brings as tuners of peft, as data: torch-free."""

from __future__ import annotations

from autopeft.methods.spec import EVERY_FAMILY, Knob, MethodSpec
from autopeft.workload.tasks import TASKS, Task

_TASKS: tuple[Task, ...] = tuple(TASKS)
_SIZE = Knob(default=32, choices=(8, 16, 32, 64), meaning="width of the bottleneck")
_SCALE = Knob(default=4.0, choices=(1.0, 2.0, 4.0), meaning="factor of what the network beside adds")
_STEPS = Knob(default=50, choices=(50, 200), meaning="steps that choose the entries")
_SIZES = (0, *(2**power for power in range(9)))


def _bottleneck(
    name: str,
    paper: str,
    trains: str,
    *,
    targets: str = "output+down",
    knobs: dict[str, Knob] | None = None,
) -> MethodSpec:
    """Make the row of a method that `bottleneck.py` builds."""
    return MethodSpec(
        name=name,
        family="additive",
        paper=paper,
        trains=trains,
        placeable=True,
        default_targets=targets,
        knobs={"size": _SIZE, **(knobs or {})},
        exports="autopeft",
        families=EVERY_FAMILY,
    )


def _hybrid(
    name: str,
    paper: str,
    trains: str,
    *,
    rank: int | None = None,
    tasks: tuple[Task, ...] = _TASKS,
    **knobs: Knob,
) -> MethodSpec:
    """Make the row of a method that `hybrid.py` builds."""
    return MethodSpec(
        name=name,
        family="additive",
        paper=paper,
        trains=trains,
        has_rank=rank is not None,
        default_rank=rank,
        placeable=True,
        knobs=knobs,
        exports="autopeft",
        families=EVERY_FAMILY,
        tasks=tasks,
    )


def _sparse(
    name: str,
    paper: str,
    trains: str,
    preparation: str,
    share: float,
    tasks: tuple[Task, ...] = _TASKS,
    **knobs: Knob,
) -> MethodSpec:
    """Make the row of a method that `sparse.py` builds and `masks.py` prepares."""
    shares = tuple(sorted({share, 0.005, 0.01, 0.05}))
    whole = Knob(default=share, choices=shares, meaning="share of the matrices' entries that train")
    return MethodSpec(
        name=name,
        family="selective",
        paper=paper,
        trains=trains,
        placeable=True,
        default_targets="all-linear",
        knobs={"share": whole, **knobs},
        mergeable=True,
        exports="autopeft",
        preparation=preparation,
        families=EVERY_FAMILY,
        tasks=tasks,
    )


OWN_METHODS: tuple[MethodSpec, ...] = (
    _bottleneck(
        "bottleneck",
        "Houlsby et al. 2019, arXiv:1902.00751",
        "a small two-layer network behind each target matrix",
    ),
    _bottleneck(
        "houlsby",
        "Houlsby et al. 2019, arXiv:1902.00751",
        "a small two-layer network behind attention and one behind the feed-forward of each layer",
    ),
    _bottleneck(
        "pfeiffer",
        "Pfeiffer et al. 2020, arXiv:2005.00247",
        "a small two-layer network behind the feed-forward of each layer",
        targets="down",
    ),
    _bottleneck(
        "adapterdrop",
        "Rueckle et al. 2021, arXiv:2010.11918",
        "a small two-layer network behind the feed-forward of each layer but the first ones",
        targets="down",
        knobs={
            "dropped": Knob(default=3, choices=(1, 3, 5), meaning="number of first layers without an adapter")
        },
    ),
    _bottleneck(
        "parallel_adapter",
        "He et al. 2022, arXiv:2110.04366",
        "a small two-layer network beside the feed-forward of each layer, scaled",
        targets="down",
        knobs={"scale": _SCALE},
    ),
    _bottleneck(
        "compacter",
        "Karimi Mahabadi et al. 2021, arXiv:2106.04647",
        "bottleneck adapters whose matrices are sums of Kronecker products, one factor shared by all layers",
        knobs={"division": Knob(default=4, choices=(2, 4, 8), meaning="number of Kronecker products")},
    ),
    _hybrid(
        "mam",
        "He et al. 2022, arXiv:2110.04366",
        "virtual keys and values in attention, and a scaled network beside the feed-forward",
        prefix=Knob(default=16, choices=(8, 16, 32), meaning="virtual keys and values of each attention"),
        parallel=Knob(
            default=16, choices=(16, 64, 256), meaning="width of the network beside the feed-forward"
        ),
        scale=_SCALE,
    ),
    _hybrid(
        "unipelt",
        "Mao et al. 2021, arXiv:2110.07577",
        "virtual keys and values, LoRA and a network behind the feed-forward, each behind a gate",
        rank=8,
        tasks=("classification",),
        prefix=Knob(default=10, choices=(4, 10, 16), meaning="virtual keys and values of each attention"),
        serial=Knob(default=48, choices=(16, 48, 64), meaning="width of the network behind the feed-forward"),
    ),
    _hybrid(
        "autopeft-2024",
        "Zhou et al. 2024, arXiv:2301.12132",
        "virtual keys and values, and networks behind and beside the feed-forward, of any size in any layers",
        serial=Knob(
            default=64, choices=_SIZES, meaning="width of the network behind the feed-forward; 0: none"
        ),
        parallel=Knob(
            default=64, choices=_SIZES, meaning="width of the network beside the feed-forward; 0: none"
        ),
        prefix=Knob(default=8, choices=_SIZES, meaning="virtual keys and values of each attention; 0: none"),
        scale=_SCALE,
    ),
    _sparse(
        "fish",
        "Sung et al. 2021, arXiv:2111.09839",
        "the entries of each matrix with the most Fisher information",
        "gradients of all entries, squared and summed over some rows (about 12 bytes an entry)",
        0.005,
        tuple(task for task in _TASKS if task != "dpo"),  # its rows are taken one by one, not in pairs
        rows=Knob(default=64, choices=(64, 256, 1024), meaning="rows that the information is taken from"),
    ),
    _sparse(
        "lt-sft",
        "Ansell et al. 2022, arXiv:2110.07560",
        "the entries of each matrix that move most when all train for a while",
        "some steps in which all entries train (about 16 bytes an entry)",
        0.05,
        steps=_STEPS,
    ),
    _sparse(
        "diff-pruning",
        "Guo et al. 2021, arXiv:2012.07463 (unstructured)",
        "the entries of each matrix that stay large behind gates which are pressed to close",
        "some steps in which all entries and a gate for each train (about 40 bytes an entry)",
        0.005,
        steps=_STEPS,
        penalty=Knob(default=1.25e-7, choices=(1.25e-7, 1e-6), meaning="what an open gate costs"),
    ),
    MethodSpec(
        name="lst",
        family="additive",
        paper="Sung et al. 2022, arXiv:2206.06522",
        trains="a narrow transformer beside the model that reads every layer",
        knobs={"reduction": Knob(default=8, choices=(4, 8, 16), meaning="how many times narrower it is")},
        exports="autopeft",
        families=("decoder", "encoder", "vision"),
    ),
)
