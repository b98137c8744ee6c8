"""The methods that peft does not have and autopeft brings as tuners of peft, as data: torch-free."""

from __future__ import annotations

from autopeft.methods.spec import EVERY_FAMILY, Knob, MethodSpec

_SIZE = Knob(default=32, choices=(8, 16, 32, 64), meaning="width of the bottleneck")


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
        knobs={"scale": Knob(default=4.0, choices=(1.0, 2.0, 4.0), meaning="factor of what is added")},
    ),
    _bottleneck(
        "compacter",
        "Karimi Mahabadi et al. 2021, arXiv:2106.04647",
        "bottleneck adapters whose matrices are sums of Kronecker products, one factor shared by all layers",
        knobs={"division": Knob(default=4, choices=(2, 4, 8), meaning="number of Kronecker products")},
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
