"""A bundle whose files were changed or cut short is refused, and what could run code is never read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import BitsAndBytesConfig

from autopeft.errors import BundleError, ConfigError, InputError
from autopeft.export.bundle import Bundle
from autopeft.export.loading import loading_code
from autopeft.export.opening import checksums, open_bundle
from autopeft.export.push import public
from autopeft.export.served_model import model_code
from autopeft.methods.quantization.loading import packing_of
from autopeft.methods.quantization.packing import Packing
from autopeft.plan.budget import Budget
from autopeft.request import Request
from autopeft.space.candidate import Candidate
from autopeft.train.result import Report, TrialResult
from autopeft.workload.tasks import ACCURACY

FIELDS = {
    "path": "bundle",
    "format": "peft",
    "model": "tiny",
    "task": "classification",
    "head": "AutoModelForSequenceClassification",
    "labels": ("bad", "good"),
    "candidate": Candidate(method="lora"),
    "budget": Budget(),
    "predicted": None,
    "measured": TrialResult(state="complete", reports=()),
    "metric": ACCURACY,
    "test_score": 0.5,
    "low": 0.4,
    "high": 0.6,
    "data": "rows",
    "data_fingerprint": "0",
    "seed": 0,
    "study": "study",
    "trial": 0,
    "versions": {},
}
PACKED = {"kind": "4bit", "skipped": ["lm_head"], "code": "nf4", "nested": True, "compute_dtype": "bfloat16"}
TORCHAO = {"kind": "Int8WeightOnlyConfig", "skipped": ["lm_head"]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(200)))
    (tmp_path / "adapter_config.json").write_text("{}")
    Bundle(**FIELDS, files=checksums(tmp_path)).keep(tmp_path / "autopeft.json")
    return tmp_path


def test_a_whole_bundle_is_opened(place: Path) -> None:
    assert open_bundle(place).path == str(place)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.unlink(), "adapter_model.safetensors is missing"),
        (lambda file: file.write_bytes(b""), "adapter_model.safetensors is empty"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "has another checksum"),
        (lambda file: file.write_bytes(b"\x01" + file.read_bytes()[1:]), "has another checksum"),
        (
            lambda file: (file.parent / "adapter_model.bin").touch(),
            "adapter_model.bin is not listed and could",
        ),
    ],
    ids=["missing", "empty", "cut short", "changed", "joined by code"],
)
def test_a_harmed_bundle_is_refused_with_the_reason(place: Path, harm, reason: str) -> None:
    harm(place / "adapter_model.safetensors")
    with pytest.raises(BundleError, match=reason):
        open_bundle(place)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.unlink(), "templates/tool_use.jinja is missing"),
        (lambda file: file.write_text("other"), "templates/tool_use.jinja has another checksum"),
        (lambda file: (file.parent / "a.py").touch(), "templates/a.py is not listed and could hold code"),
    ],
)
def test_files_in_directories_of_a_bundle_are_held_against_their_checksums(
    tmp_path: Path, harm, reason: str
) -> None:
    file = tmp_path / "templates" / "tool_use.jinja"
    file.parent.mkdir()
    file.write_text("{{ tools }}")
    Bundle.build(**FIELDS, files=checksums(tmp_path)).keep(tmp_path / "autopeft.json")
    assert set(open_bundle(tmp_path).files) == {"templates/tool_use.jinja"}
    harm(file)
    with pytest.raises(BundleError, match=reason):
        open_bundle(tmp_path)


def test_the_data_of_the_hub_keep_their_name_elsewhere(tmp_path: Path) -> None:
    here = Bundle(**FIELDS | {"data": "imdb", "request": Request(data="stanfordnlp/imdb")})
    assert here.elsewhere("mine").elsewhere("mine again").data == "stanfordnlp/imdb"
    local = Bundle(**FIELDS | {"data": "imdb", "request": Request(data=str(tmp_path / "imdb"))})
    assert local.elsewhere("mine").data == "imdb"


def test_a_bundle_elsewhere_says_nothing_of_places_on_this_disk(tmp_path: Path) -> None:
    places = {"base": str(tmp_path), "model": f"{tmp_path}/tiny", "data": f"{tmp_path}/rows.csv"}
    here = Bundle(
        **FIELDS | places | {"path": str(tmp_path), "request": Request(data=f"{tmp_path}/rows.csv")}
    )
    assert str(tmp_path) not in here.elsewhere("mine").model_dump_json()
    assert here.elsewhere("mine").model == "tiny"
    named = here.model_copy(update={"base": "org/base"})
    assert named.elsewhere("mine").base == "org/base"


def test_what_is_pushed_of_a_whole_model_names_no_base_of_this_disk(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = Bundle.read(place / "autopeft.json")
    (place / "adapter_config.json").unlink()
    report = Report(samples=1, step=1, loss=1, score=1, seconds=1, step_seconds=1, peak_bytes=1, extra={})
    changed = {
        "format": "model",
        "form": "merged",
        "base": str(place),
        "files": checksums(place),
        "measured": TrialResult(state="complete", reports=(report,)),
    }
    bundle.model_copy(update=changed).keep(place / "autopeft.json")
    target = tmp_path_factory.mktemp("pushed") / "public"
    assert public(place, target, "me/mine").base == ""
    assert str(place) not in (target / "autopeft.json").read_text()


def test_a_card_that_is_pushed_names_data_of_the_hub(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = Bundle.read(place / "autopeft.json")
    report = Report(samples=1, step=1, loss=1, score=1, seconds=1, step_seconds=1, peak_bytes=1, extra={})
    asked = {"base": "org/base", "data": "imdb", "request": Request(data="stanfordnlp/imdb")}
    measured = TrialResult(state="complete", reports=(report,))
    bundle.model_copy(update=asked | {"measured": measured}).keep(place / "autopeft.json")
    target = tmp_path_factory.mktemp("pushed") / "public"
    public(place, target, "me/mine")
    assert "datasets: stanfordnlp/imdb\n" in (target / "README.md").read_text()
    assert open_bundle(target).data == "stanfordnlp/imdb"


def test_a_manifest_that_was_cut_short_is_refused(place: Path) -> None:
    manifest = place / "autopeft.json"
    manifest.write_bytes(manifest.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"autopeft\.json"):
        open_bundle(place)


def test_what_is_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has none"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"head": "os.system"},
        {"loading": {"x=print(1), num_labels": 2}},
        {"files": {"../outside": "0"}},
        {"files": {"inside/../../outside": "0"}},
        {"files": {"/outside": "0"}},
        {"files": {"": "0"}},
        {"packing": ["", " if __import__('os').system('id') else 0, quantization_config=1"]},
        {"packing": ["import os\n", ""]},
        {"packing": PACKED | {"kind": "4bit=True, x"}},
        {"packing": PACKED | {"skipped": ['"], x=print(1), y=["']}},
        {"packing": PACKED | {"code": 'nf4", x=print(1), y="'}},
        {"packing": PACKED | {"compute_dtype": "print(1)"}},
        {"packing": PACKED | {"imports": "import os"}},
        {"license": "mit\nbase_model: other"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_manifest_cannot_smuggle_code_into_what_loads_a_bundle(changed: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Bundle.build(**FIELDS | changed)


def test_a_packed_base_is_loaded_by_lines_that_are_made_of_data() -> None:
    made = Bundle.build(**FIELDS, packing=PACKED)
    imports, loader = loading_code(made, '"here"')
    assert imports.startswith("from transformers import BitsAndBytesConfig\n")
    assert (
        'quantization_config=BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["lm_head"], '
        'bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16")'
    ) in loader
    assert Bundle.model_validate_json(made.model_dump_json()) == made


def test_a_packed_model_says_how_it_is_loaded() -> None:
    written = Packing(**PACKED)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        llm_int8_skip_modules=["lm_head"],
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype="bfloat16",
    )
    assert packing_of(SimpleNamespace(config=SimpleNamespace(quantization_config=config))) == written
    assert packing_of(SimpleNamespace(config=SimpleNamespace())) is None
    names: dict[str, object] = {}
    exec(written.imports, names)
    again = eval(f"dict(it=0{written.argument})", names)["quantization_config"]
    assert again.to_dict() == config.to_dict()


def test_a_base_packed_by_torchao_is_loaded_with_its_configuration() -> None:
    assert Packing(**TORCHAO).argument == (
        ', quantization_config=TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=["lm_head"])'
    )


def test_a_manifest_from_before_packing_was_data_is_read_where_nothing_was_packed() -> None:
    assert Bundle.build(**FIELDS, packing=["", ""]).packing is None


def test_what_a_manifest_calls_its_places_is_no_code_of_a_served_model() -> None:
    candidate = Candidate(method="lora", targets=('x"""\nprint(1)\n"""',))
    assert "print(1)" not in model_code(Bundle.build(**FIELDS | {"candidate": candidate}))
