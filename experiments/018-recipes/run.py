"""Hold autopeft's recipes against the parsers and schemas of the tools that they are for.

    python experiments/018-recipes/run.py --tools DIR

DIR/TOOL holds each tool as `pip install --no-deps --target DIR/TOOL TOOL` put it. Each parser runs in a
process of its own that sees one tool. What cannot be imported without a GPU is read as source instead.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from autopeft.errors import UnsupportedError
from autopeft.export.recipes.subject import FORMATS, Format, Recipe
from autopeft.export.recipes.writing import WRITERS
from autopeft.journey.reciting import subject_of
from autopeft.space.candidate import Candidate, Training
from autopeft.workload.models import find_model

HERE = Path(__file__).parent
BF16 = Training(
    precision="bf16", gradient_checkpointing=True, max_length=1024, batch_size=4, schedule="cosine"
)
CANDIDATES = {
    "LoRA": Candidate(method="lora", rank=16),
    "LoRA, all linear, bf16": Candidate(method="lora", rank=8, targets="all-linear", training=BF16),
    "LoRA, second half": Candidate(method="lora", rank=8, layers="last-half"),
    "QLoRA": Candidate(method="lora", rank=16, quantization="nf4-dq", training=BF16),
    "fp4": Candidate(method="lora", rank=16, quantization="fp4", training=BF16),
    "int8": Candidate(method="lora", rank=16, quantization="int8"),
    "DoRA": Candidate(method="dora", rank=16),
    "rsLoRA": Candidate(method="rslora", rank=64),
    "PiSSA": Candidate(method="pissa", rank=16),
    "IA3": Candidate(method="ia3"),
    "bottleneck": Candidate(method="bottleneck"),
    "full": Candidate(method="full", training=BF16),
}
# Of each tool, what reads one file by the tool's own means.
PARSERS: dict[Format, str] = {
    "trl": """
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser
def read(file):
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    sys.argv = ["trl", "--config", file, "--bf16", "false"]
    parser.parse_args_and_config(fail_with_unknown_args=False)
""",
    "axolotl": """
import yaml
from axolotl.utils.schemas.config import AxolotlInputConfig
def read(file):
    fields = yaml.safe_load(open(file))
    unknown = set(fields) - set(AxolotlInputConfig.model_fields)
    assert not unknown, unknown
    AxolotlInputConfig(**fields)
""",
    "llama-factory": """
import yaml
from transformers import HfArgumentParser
from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments, TrainingArguments
def read(file):
    fields = yaml.safe_load(open(file)) | {"bf16": False}
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments, FinetuningArguments))
    parser.parse_dict(fields)
""",
}
_EACH = """
import contextlib, io, json, os, sys
{parser}
answers = []
for file in sys.argv[1:]:
    said = io.StringIO()
    try:
        os.chdir(os.path.dirname(file))
        with contextlib.redirect_stderr(said):
            read(file)
        answers.append("parsed")
    except (Exception, SystemExit) as error:
        lines = said.getvalue().strip().splitlines() + str(error).strip().splitlines()
        answers.append("FAILED: " + " ".join(lines[-3:] or ["?"])[:300])
print(json.dumps(answers))
"""
PACKAGES = {"llama-factory": "llamafactory"}


def check(wanted: Format, recipes: dict[str, Recipe], tools: Path) -> dict[str, str]:
    """Say how the recipes of one format stood up to its tool, by their labels."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for place, (label, recipe) in enumerate(recipes.items()):
            of_one = Path(folder) / str(place)
            of_one.mkdir()
            for name, text in recipe.files.items():
                (of_one / name).write_text(text)
            files[label] = of_one / next(iter(recipe.files))
        if wanted in PARSERS:
            return dict(zip(files, by_parser(wanted, list(files.values()), tools), strict=True))
        by_reading = {"torchtune": by_source, "unsloth": by_signature, "script": by_compiling}[wanted]
        return {label: by_reading(file, tools / wanted) for label, file in files.items()}


def by_parser(wanted: Format, files: list[Path], tools: Path) -> list[str]:
    """Have a tool's own parser read files, in one process that sees no other tool."""
    places = [tools / PACKAGES.get(wanted, wanted), tools / "more", tools / "datasets"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "HF_HUB_OFFLINE": "1"}
    environment |= {"DISABLE_VERSION_CHECK": "1"}  # LLaMA-Factory is for an older transformers
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _EACH.format(parser=PARSERS[wanted]), *map(str, files)],
        capture_output=True, text=True, check=False, env=environment, cwd=files[0].parent,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{wanted} cannot be asked: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def by_compiling(file: Path, tool: Path) -> str:
    """Have Python compile a script; it needs no tool."""
    del tool
    compile(file.read_text(), file.name, "exec")
    return "compiles"


def by_source(file: Path, tool: Path) -> str:
    """Look each component of a torchtune recipe, and each of its arguments, up in torchtune's source."""
    import yaml

    fields = yaml.safe_load(file.read_text())
    shipped = yaml.safe_load((tool / "recipes/configs/llama3_2/1B_lora_single_device.yaml").read_text())
    if set(shipped) - set(fields):
        return f"FAILED: the recipe lacks {set(shipped) - set(fields)}"
    for name, part in fields.items():
        component = part.get("_component_") if isinstance(part, dict) else None
        if component is None or not component.startswith("torchtune."):
            continue
        known = arguments(component, tool)
        wrong = set(part) - {"_component_"} - known
        if wrong and "**" not in known:
            return f"FAILED: {name}: {component} has no {wrong}"
    return "every component and argument is in the source"


def arguments(component: str, tool: Path) -> set[str]:
    """Return the parameters of a function or class of a package, by its source."""
    module, _, name = component.rpartition(".")
    folder = tool / Path(*module.split("."))
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            made = node
            if isinstance(node, ast.ClassDef) and node.name == name:
                made = next(each for each in node.body if getattr(each, "name", "") == "__init__")
            elif not (isinstance(node, ast.FunctionDef) and node.name == name):
                continue
            given = [*made.args.args, *made.args.kwonlyargs]
            return {each.arg for each in given} | ({"**"} if made.args.kwarg else set())
    raise SystemExit(f"{component} is not in {folder}")


def by_signature(file: Path, tool: Path) -> str:
    """Look the arguments of a script's calls up in Unsloth's source."""
    wanted = {"from_pretrained": "unsloth/models/loader.py", "get_peft_model": "unsloth/models/llama.py"}
    known: dict[str, set[str]] = {}
    for name, where in wanted.items():
        tree = ast.parse((tool / where).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name == name and name not in known:
                known[name] = {each.arg for each in node.args.args}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in known:
            wrong = {each.arg for each in node.keywords} - known[node.func.attr]
            if wrong:
                return f"FAILED: {node.func.attr} has no {wrong}"
    return "every argument is in the source"


def main() -> None:
    """Write results.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, required=True)
    parser.add_argument("--only", choices=FORMATS)
    parser.add_argument("--model", default="Llama-3.2-1B")
    given = parser.parse_args()
    base, found = find_model(given.model), {}
    for wanted in FORMATS if given.only is None else (given.only,):
        recipes: dict[str, Recipe] = {}
        answers: dict[str, str] = {}
        for label, candidate in CANDIDATES.items():
            try:
                recipes[label] = WRITERS[wanted](subject_of(candidate, base, None, None, 0))
            except UnsupportedError as error:
                answers[label] = f"refused: {error}"
        answers |= check(wanted, recipes, given.tools.resolve())
        found[wanted] = {label: answers[label] for label in CANDIDATES}
        for label, answer in found[wanted].items():
            sys.stderr.write(f"{wanted:14} {label:24} {answer[:160]}\n")
    versions = sorted(each.name.removesuffix(".dist-info") for each in given.tools.glob("*/*.dist-info"))
    results = HERE / "results.json"
    before = json.loads(results.read_text())["recipes"] if results.exists() else {}
    text = json.dumps({"model": given.model, "versions": versions, "recipes": before | found}, indent=1)
    results.write_text(text + "\n")


if __name__ == "__main__":
    main()
