"""The house rules about files, as tests: who may import whom, how big a file is, what it is called.

Upper floors import lower ones, never back. Across folders only message files are imported;
what else a folder may use stands in `MACHINERY`, with the reason.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import autopeft

ROOT = Path(autopeft.__file__).parent

GROUND = {"autopeft", "errors", "message", "units", "files", "optional"}

# Folder (or file at the top) -> floors below it whose messages it may import.
FLOORS: dict[str, tuple[str, ...]] = {
    "hardware": (),
    "workload": (),
    "space": ("workload",),
    "methods": ("workload", "space"),
    "train": ("workload", "space", "methods"),
    "cost": ("hardware", "workload", "space", "methods", "train"),
    "plan": ("hardware", "workload", "space", "cost"),
    "search": ("hardware", "workload", "space", "train", "cost", "plan"),
    "report": ("hardware", "workload", "space", "train", "cost", "plan", "search"),
    "tracking": ("hardware", "workload", "space", "train", "cost", "plan", "search", "report", "export"),
    "export": ("hardware", "workload", "space", "methods", "train", "cost", "plan", "search", "request"),
    "request": ("workload", "cost", "plan"),
    "job": ("report", "export", "request"),
    "journey": (
        *("hardware", "workload", "space", "methods", "train", "cost", "plan", "search"),
        *("report", "tracking", "export", "request"),
    ),
    "handover": (
        *("hardware", "workload", "space", "methods", "train", "cost", "plan", "search"),
        *("report", "tracking", "export", "request", "journey"),
    ),
    "pipeline": (
        *("hardware", "workload", "space", "methods", "train", "cost", "plan", "search"),
        *("report", "tracking", "export", "request", "journey", "handover"),
    ),
    "inventory": ("hardware", "workload", "space", "methods", "request"),
    "api": (
        *("hardware", "workload", "space", "methods", "train", "cost", "plan", "search"),
        *("report", "export", "request", "handover", "pipeline"),
    ),
    "connection": (),
    "client": (
        *("hardware", "workload", "space", "methods", "plan", "search", "report", "export", "api"),
        *("job", "connection"),
    ),
    "doctor": (),
    "service": (
        *("hardware", "workload", "space", "methods", "train", "cost", "plan", "search"),
        *("report", "export", "request", "job", "handover", "pipeline", "inventory", "doctor", "journey"),
    ),
    "adapters": ("methods",),
    "cli": (
        *("hardware", "workload", "space", "methods", "train", "cost", "plan", "search"),
        *("report", "tracking", "export", "request", "handover", "pipeline", "inventory"),
        *("doctor", "service"),
    ),
    "__main__": ("cli",),
}

# Files that anyone above may import: frozen values and protocols, and the one door of a stage.
MESSAGES = {
    "hardware.profile",
    "hardware.prices",
    "workload.base_model",
    "workload.dataset",
    "workload.tasks",
    "space.candidate",
    "space.search_space",
    "space.optimizers",
    "methods.quantization.packing",
    "methods.spec",
    "train.result",
    "cost.estimate",
    "cost.money",
    "cost.spread",
    "cost.correction",
    "plan.budget",
    "plan.question",
    "plan.answer",
    "plan.capacity",
    "plan.plan",
    "plan.overview",
    "plan.serving",
    "search.study",
    "search.observer",
    "search.searcher",
    "report.comparison",
    "report.facts",
    "export.bundle",
    "export.names",
    "export.recipes.subject",
    "request",
    "job",
    "doctor",
    "handover",
    "inventory",
    "pipeline",
    "service.settings",
}

ANYTHING = "*"

# Machinery of another folder that a folder may use, each with the reason.
MACHINERY: dict[str, set[str]] = {
    # What is planned is what is run: the same adapted model and step, traced instead of trained.
    # Its layers are told apart by the placement's rules, its packed weights by the quantisation's.
    "cost": {
        *("methods.adapt", "methods.backbone", "methods.heads", "methods.placement", "methods.registry"),
        *("methods.quantization.convert", "methods.quantization.kbit", "methods.quantization.schemes"),
        *("train.mezo", "train.step", "train.optimizers", "workload.batching", "workload.families"),
        "workload.senses",
    },
    # Which family a configuration belongs to is written down once, beside the catalogue.
    "methods": {"workload.families", "workload.senses"},
    # Training adapts a model and turns its rows into batches; both exist once.
    "train": {
        *("methods.adapt", "methods.backbone", "methods.heads", "methods.preparing"),
        *("methods.registry", "methods.starts"),
        *("workload.tokens", "workload.batching"),
        *("workload.images", "workload.sounds", "workload.senses", "workload.measuring"),
    },
    # A domain of a search space is data; the searcher walks through it.
    "search": {"space.domain", "space.sampling"},
    # An adapter is exported by the trainer that holds it, with how its base is loaded.
    # Unpacked weights are those of its base, loaded once more.
    "export": {
        *("methods.loaded", "methods.registry", "methods.quantization.loading", "methods.starts"),
        *("train.stock", "train.trainer"),
        # The hub id of a base that is a directory here.
        "workload.catalogued",
    },
    # A bundle is logged as a model by code that the export writes.
    "tracking": {"export.opening", "export.served_model"},
    # Registers autopeft's own adapters with peft in a process that has nothing else of autopeft.
    "adapters": {"methods.tuners"},
    # The journey is where machinery meets.
    "journey": {ANYTHING},
    "handover": {ANYTHING},
    "inventory": {ANYTHING},
    "pipeline": {ANYTHING},
    # Counted spaces are answers, and a client takes the library's options; a bundle that was sent is held
    # against its checksums before it takes its place.
    "client": {"space.counting", "api", "connection", "export.opening", "export.swap"},
    # Counted spaces are answers; what keeps a consultant names its type; uploads are confined, read apart.
    "service": {
        *("space.counting", "journey.consulting", "journey.inputs", "journey.keeping", "workload.media"),
        "export.abroad",
        # A job is refused at once by the rule that would refuse its run.
        "journey.allowing",
    },
    # The lists, a search's display and shell completion.
    "cli": {
        *("workload.models", "space.counting", "methods.registry", "tracking.console"),
        # A study's facts as Markdown.
        "report.text",
        # What starts a service, and who may use it.
        *("service.serving", "service.telemetry", "service.database", "service.tokens"),
    },
    "__main__": {"cli.app"},
}

HEAVY = {
    "torch",
    "transformers",
    "peft",
    "ray",
    "mlflow",
    "optuna",
    "plotly",
    "pandas",
    "sklearn",
    "datasets",
}
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "core", "misc", "base", "lib"}
MOST_LINES = 400

FILES = sorted(ROOT.rglob("*.py"))


def module_of(file: Path) -> str:
    """Name a file without the leading package: "plan.budget"; the package itself is "autopeft"."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "autopeft"


MODULES = {module_of(file): file for file in FILES}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def imports(file: Path, *, with_types: bool) -> Iterator[str]:
    """Yield the modules of autopeft that a file imports, inside functions too."""
    todo: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not with_types:
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (short(alias.name) for alias in node.names if room_of(alias.name) == "autopeft")
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            if node.module and room_of(node.module) == "autopeft":
                for alias in node.names:
                    below = short(f"{node.module}.{alias.name}")
                    yield below if below in MODULES else short(node.module)
        todo.extend(ast.iter_child_nodes(node))


def short(module: str) -> str:
    return module.removeprefix("autopeft.")


def test_every_folder_has_its_row_in_the_table() -> None:
    rooms = {room_of(module) for module in MODULES} - GROUND
    assert rooms == set(FLOORS)
    assert set(MODULES) >= MESSAGES, f"no such message files: {MESSAGES - set(MODULES)}"


def test_the_floors_have_an_order() -> None:
    TopologicalSorter({room: set(below) for room, below in FLOORS.items()}).prepare()


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"autopeft"}))
def test_a_module_imports_only_messages_of_floors_below(module: str) -> None:
    room, wrong = room_of(module), []
    for target in imports(MODULES[module], with_types=True):
        other = room_of(target)
        if other == room or target in GROUND:
            continue
        granted = MACHINERY.get(room, set())
        below = room not in GROUND and other in FLOORS[room]
        if not (below and (target in MESSAGES or target in granted or ANYTHING in granted)):
            wrong.append(target)
    assert not wrong, f"{module} must not import {wrong}"


def test_the_lazy_face_imports_nothing_when_loaded() -> None:
    assert not list(imports(MODULES["autopeft"], with_types=False))


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: set(imports(file, with_types=False)) - {module} for module, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_granted_machinery_is_used() -> None:
    for room, granted in MACHINERY.items():
        used = {
            target
            for module, file in MODULES.items()
            if room_of(module) == room
            for target in imports(file, with_types=True)
        }
        unused = granted - used - {ANYTHING}
        assert not unused, f"{room} no longer needs {unused}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_is_short_and_has_a_telling_name(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) < MOST_LINES
    assert file.stem not in VAGUE_NAMES


@pytest.mark.parametrize("module", sorted({*MESSAGES, *GROUND} | {"methods.registry"}))
def test_messages_and_the_ground_load_no_heavy_library(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in tree.body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {room_of(name) for name in names} & HEAVY, f"{module} imports {names} when loaded"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if room_of(name) != "cli"))
def test_the_library_never_prints(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "print" not in called
