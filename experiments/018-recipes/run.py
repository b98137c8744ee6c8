"""Hold autopeft's recipes against the parsers and schemas of the tools that they are for.

    python experiments/018-recipes/run.py --tools DIR

DIR/TOOL holds each tool as `pip install --no-deps --target DIR/TOOL TOOL` put it. Every check runs in a
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
    "int8": Candidate(method="lora", rank=16, quantization="int8"),
    "DoRA": Candidate(method="dora", rank=16),
    "rsLoRA": Candidate(method="rslora", rank=64),
    "PiSSA": Candidate(method="pissa", rank=16),
    "IA3": Candidate(method="ia3"),
    "bottleneck": Candidate(method="bottleneck"),
    "full": Candidate(method="full", training=BF16),
}
PARSERS: dict[Format, str] = {
    "trl": """
import sys
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser
parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
sys.argv = ["trl", "--config", sys.argv[1], "--bf16", "false"]
parser.parse_args_and_config(fail_with_unknown_args=False)
""",
    "axolotl": """
import sys, yaml
from axolotl.utils.schemas.config import AxolotlInputConfig
fields = yaml.safe_load(open(sys.argv[1]))
unknown = set(fields) - set(AxolotlInputConfig.model_fields)
assert not unknown, unknown
AxolotlInputConfig(**fields)
""",
    "llama-factory": """
import sys, yaml
from transformers import HfArgumentParser
from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments, TrainingArguments
fields = yaml.safe_load(open(sys.argv[1])) | {"bf16": False}
HfArgumentParser((ModelArguments, DataArguments, TrainingArguments, FinetuningArguments)).parse_dict(fields)
""",
}
PACKAGES = {"llama-factory": "llamafactory"}


def check(wanted: Format, recipe: Recipe, tools: Path) -> str:
    """Say how a recipe stood up to its tool."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in recipe.files.items():
            (Path(folder) / name).write_text(text)
        main = Path(folder) / next(iter(recipe.files))
        if wanted == "torchtune":
            return by_source(main, tools / "torchtune")
        if wanted == "unsloth":
            return by_signature(main, tools / "unsloth")
        if wanted == "script":
            compile(main.read_text(), "train.py", "exec")
            return "compiles"
        places = [tools / PACKAGES.get(wanted, wanted), tools / "more", tools / "datasets"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places)), "HF_HUB_OFFLINE": "1"}
        environment |= {"DISABLE_VERSION_CHECK": "1"}  # LLaMA-Factory is for an older transformers
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PARSERS[wanted], str(main)],
            capture_output=True, text=True, check=False, env=environment, cwd=folder,
        )  # fmt: skip
        if done.returncode == 0:
            return "parsed"
        return "FAILED: " + " ".join((done.stderr.strip().splitlines() or ["?"])[-3:])[:300]


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
    for label, candidate in CANDIDATES.items():
        subject = subject_of(candidate, base, None, None, 0)
        for wanted in FORMATS:
            if given.only not in (None, wanted):
                continue
            try:
                answer = check(wanted, WRITERS[wanted](subject), given.tools.resolve())
            except UnsupportedError as error:
                answer = f"refused: {error}"
            found.setdefault(wanted, {})[label] = answer
            sys.stderr.write(f"{wanted:14} {label:24} {answer[:160]}\n")
    versions = sorted(each.name.removesuffix(".dist-info") for each in given.tools.glob("*/*.dist-info"))
    results = HERE / "results.json"
    before = json.loads(results.read_text())["recipes"] if results.exists() else {}
    text = json.dumps({"model": given.model, "versions": versions, "recipes": before | found}, indent=1)
    results.write_text(text + "\n")


if __name__ == "__main__":
    main()
