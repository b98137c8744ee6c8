"""An export loads without autopeft, gives the recorded logits, and is written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autopeft.errors import ExportError
from autopeft.export.bundle import Bundle
from autopeft.export.check import compare_in_fresh_process
from autopeft.export.writer import bundle_format, write_bundle
from autopeft.plan.budget import Budget
from autopeft.space.candidate import Candidate, Training
from autopeft.train.result import TrialResult
from autopeft.train.trainer import Trainer

CLASSIFIER = "AutoModelForSequenceClassification"
HEADS = {
    "sft": "AutoModelForCausalLM",
    "dpo": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "token-classification": "AutoModelForTokenClassification",
}
TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=1, max_length=16)


def trained(base, dataset, method) -> tuple[Trainer, TrialResult]:
    run = Trainer(base, dataset, Candidate(method=method, training=TRAINING), seed=0)
    return run, TrialResult(state="complete", reports=(run.advance(10**9),))


def draft(path: Path, dataset, method: str, measured: TrialResult, head: str = "") -> Bundle:
    return Bundle(
        path=str(path),
        format=bundle_format(method),
        model="tiny",
        task=dataset.task,
        head=head or HEADS.get(dataset.task, CLASSIFIER),
        labels=dataset.labels,
        candidate=Candidate(method=method, training=TRAINING),
        budget=Budget(gpu_mem="1GB"),
        predicted=None,
        measured=measured,
        metric=dataset.metric,
        test_score=0.5,
        low=0.4,
        high=0.6,
        data=dataset.name,
        data_fingerprint=dataset.fingerprint,
        seed=0,
        study="study",
        trial=0,
        versions={},
    )


def test_an_adapter_loads_with_transformers_and_peft_alone(encoder_with_weights, sentiment, tmp_path) -> None:
    run, measured = trained(encoder_with_weights, sentiment, "lora")
    bundle = write_bundle(draft(tmp_path / "bundle", sentiment, "lora", measured), run)
    assert bundle.reference_difference is not None
    assert bundle.reference_difference <= 1e-5
    reference = json.loads((tmp_path / "bundle" / "reference.json").read_text())
    code = code_of(tmp_path / "bundle").replace('["YOUR TEXT"]', '["good", "a text of more words"]')
    script = (
        f"{code}\n"
        "import json, sys\n"
        f"inputs = {{k: torch.tensor(v) for k, v in {reference!r}.items() if k != 'logits'}}\n"
        "print(json.dumps(model(**inputs).logits.tolist()))\n"
        "assert not any(name.startswith('autopeft') for name in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *told, logits = done.stdout.splitlines()[-3:]
    for label, share in (line.split() for line in told):
        assert label in sentiment.labels
        assert 0.5 <= float(share) <= 1
    assert "classifier.weight" in done.stdout + done.stderr  # what the card says is no error
    got = json.loads(logits)
    assert got == [pytest.approx(row, abs=1e-5) for row in reference["logits"]]


@pytest.mark.parametrize("method", ["full", pytest.param("fish", marks=pytest.mark.slow)])
def test_adapters_of_our_own_and_whole_models_load_too(
    method, encoder_with_weights, sentiment, tmp_path
) -> None:
    run, measured = trained(encoder_with_weights, sentiment, method)
    bundle = write_bundle(draft(tmp_path / "bundle", sentiment, method, measured), run)
    assert bundle.reference_difference == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("scheme", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_an_adapter_of_a_packed_base_loads_on_a_base_packed_alike(
    scheme, encoder_with_weights, sentiment, tmp_path
) -> None:
    pytest.importorskip("bitsandbytes", reason="packed bases need the extra quant")
    asked = Candidate(method="lora", training=TRAINING, quantization=scheme)
    run = Trainer(encoder_with_weights, sentiment, asked, seed=0)
    measured = TrialResult(state="complete", reports=(run.advance(10**9),))
    bundle = write_bundle(draft(tmp_path / "bundle", sentiment, "lora", measured), run)
    assert bundle.reference_difference == pytest.approx(0, abs=1e-5)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "from transformers import BitsAndBytesConfig" in card
    assert "quantization_config=BitsAndBytesConfig(" in card


@pytest.mark.slow
def test_a_causal_model_s_adapter_gives_the_recorded_logits(decoder_with_weights, turns, tmp_path) -> None:
    run, measured = trained(decoder_with_weights, turns, "lora")
    assert write_bundle(draft(tmp_path / "bundle", turns, "lora", measured), run).reference_difference <= 1e-5


def code_of(folder: Path) -> str:
    """Return the lines of Python in the card of an export, with its own path in them."""
    code = (folder / "README.md").read_text().partition("```python")[2].partition("```")[0]
    return code.replace("PATH_OF_THIS_FOLDER", str(folder))


def loaded_outputs(folder: Path) -> list[list[float]]:
    """Load an export as its card says, without autopeft, and give what it says to the reference."""
    script = (
        "import json, torch\n"
        f"{code_of(folder)}\n"
        f"reference = json.load(open({str(folder / 'reference.json')!r}))\n"
        "inputs = {name: torch.tensor(each) for name, each in reference.items() if name != 'logits'}\n"
        "print(json.dumps(model.eval()(**inputs).logits.tolist()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_an_exported_regression_gives_the_users_numbers(encoder_with_weights, ratings, tmp_path) -> None:
    run, measured = trained(encoder_with_weights, ratings, "lora")
    with torch.inference_mode():
        scaled = run.model(**run.feed.reference()).logits
    asked = draft(tmp_path / "bundle", ratings, "lora", measured)
    bundle = write_bundle(asked.model_copy(update={"further": {"mean_absolute_error": 3.5}}), run)
    assert bundle.scale is None
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "1 is always saying the median of the training rows, 0 is never being wrong" in card
    assert "On average it is 3.5 off, in the unit of the numbers." in card
    assert "print((model.eval()(**inputs).logits[:, 0]).tolist())" in card  # and `loaded_outputs` runs it
    scale = ratings.scale
    expected = [pytest.approx(row, abs=1e-3) for row in (scale.mean + scale.deviation * scaled).tolist()]
    assert loaded_outputs(tmp_path / "bundle") == expected


@pytest.mark.slow
def test_exports_of_tags_of_masked_and_of_written_text_load_as_their_cards_say(
    encoder_with_weights, guesser_with_weights, seq2seq_with_weights, entities, texts, turns, tmp_path
) -> None:
    for base, dataset, head in (
        (encoder_with_weights, entities, ""),
        (guesser_with_weights, texts, ""),
        (seq2seq_with_weights, turns, "AutoModelForSeq2SeqLM"),
    ):
        run, measured = trained(base, dataset, "lora")
        folder = tmp_path / dataset.task
        assert write_bundle(draft(folder, dataset, "lora", measured, head), run).reference_difference <= 1e-5
        expected = json.loads((folder / "reference.json").read_text())["logits"]
        assert torch.allclose(torch.tensor(loaded_outputs(folder)), torch.tensor(expected), atol=1e-4)


@pytest.mark.slow
def test_a_decoder_s_export_says_how_to_have_the_users_numbers(
    decoder_with_weights, ratings, tmp_path
) -> None:
    run, measured = trained(decoder_with_weights, ratings, "lora")
    bundle = write_bundle(draft(tmp_path / "bundle", ratings, "lora", measured), run)
    assert bundle.scale == ratings.scale
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"{ratings.scale.mean!r} + {ratings.scale.deviation!r} * model(**inputs).logits[:, 0]" in card


@pytest.mark.slow
@pytest.mark.parametrize("method", ["poly", "multitask_prompt_tuning"])
def test_a_method_of_many_tasks_is_exported_with_the_task_of_each_row(
    method, encoder_with_weights, sentiment, tmp_path
) -> None:
    run, measured = trained(encoder_with_weights, sentiment, method)
    bundle = write_bundle(draft(tmp_path / "bundle", sentiment, method, measured), run)
    assert bundle.reference_difference == pytest.approx(0, abs=1e-5)
    assert "task_ids=" in (tmp_path / "bundle" / "README.md").read_text()


def test_a_method_that_peft_does_not_save_is_not_exported(encoder_with_weights, sentiment, tmp_path) -> None:
    run, measured = trained(encoder_with_weights, sentiment, "lora")
    with pytest.raises(ExportError, match="xlora cannot be exported"):
        write_bundle(draft(tmp_path / "bundle", sentiment, "xlora", measured), run)
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_names_every_file_by_its_checksum(encoder_with_weights, sentiment, tmp_path) -> None:
    run, measured = trained(encoder_with_weights, sentiment, "lora")
    write_bundle(draft(tmp_path / "bundle", sentiment, "lora", measured), run)
    manifest = Bundle.read(tmp_path / "bundle" / "autopeft.json")
    listed = {path.name for path in (tmp_path / "bundle").iterdir()} - {"autopeft.json"}
    assert (
        set(manifest.files)
        == listed
        >= {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"}
    )


@pytest.mark.slow
def test_a_changed_weight_is_noticed(encoder_with_weights, sentiment, tmp_path) -> None:
    run, measured = trained(encoder_with_weights, sentiment, "lora")
    written = write_bundle(draft(tmp_path / "bundle", sentiment, "lora", measured), run)
    weights = tmp_path / "bundle" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-400:] = os.urandom(400)
    weights.write_bytes(content)
    with pytest.raises(ExportError, match="logits of the export must be within"):
        compare_in_fresh_process(tmp_path / "bundle", written)


def test_an_existing_directory_is_kept_unless_forced(encoder_with_weights, sentiment, tmp_path) -> None:
    run, measured = trained(encoder_with_weights, sentiment, "lora")
    (tmp_path / "bundle").mkdir()
    mine = tmp_path / "bundle" / "mine.txt"
    mine.write_text("precious")
    for force, words in ((False, "exists already"), (True, "holds mine.txt")):
        with pytest.raises(ExportError, match=words):
            write_bundle(draft(tmp_path / "bundle", sentiment, "lora", measured), run, force=force)
    assert mine.read_text() == "precious"
    mine.rename(mine.with_name("autopeft.json"))
    write_bundle(draft(tmp_path / "bundle", sentiment, "lora", measured), run, force=True)
    assert (tmp_path / "bundle" / "adapter_config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_failed_export_leaves_nothing_behind(
    encoder_with_weights, sentiment, tmp_path, monkeypatch
) -> None:
    run, measured = trained(encoder_with_weights, sentiment, "lora")
    monkeypatch.setattr(run.feed, "save", lambda folder: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(Exception, match="No space"):
        write_bundle(draft(tmp_path / "bundle", sentiment, "lora", measured), run)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_kept_in_half_precision_is_loaded_as_it_was_trained(
    decoder_with_weights, turns, tmp_path
) -> None:
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    shutil.copytree(decoder_with_weights.path, half)
    AutoModelForCausalLM.from_pretrained(half, dtype="bfloat16").save_pretrained(half)
    base = decoder_with_weights.model_copy(update={"path": str(half)})
    run, measured = trained(base, turns, "lora")
    assert write_bundle(draft(tmp_path / "bundle", turns, "lora", measured), run).reference_difference <= 1e-5
