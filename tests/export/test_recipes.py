"""Recipes say the same configuration in the words of other tools, or refuse with the reason."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from autopeft.errors import UnsupportedError
from autopeft.export.recipes.subject import FORMATS, Recipe, Subject, said_of
from autopeft.export.recipes.writing import WRITERS
from autopeft.journey.reciting import candidates_in, subject_of, write_rows
from autopeft.space.candidate import Candidate, Training
from autopeft.train.trainer import Trainer
from autopeft.workload.dataset import Example
from autopeft.workload.tokens import encode, load_tokenizer

TRAINING = Training(
    learning_rate=2e-3,
    batch_size=4,
    grad_accum=2,
    epochs=3,
    max_length=48,
    precision="bf16",
    warmup_share=0.1,
)


def subject(base, **fields) -> Subject:
    asked = Candidate(**{"method": "lora", "rank": 8, "training": TRAINING} | fields)
    return subject_of(asked, base, None, "sft", 7)


@pytest.mark.parametrize("wanted", ["trl", "axolotl", "llama-factory"])
def test_a_configuration_says_what_the_candidate_says(wanted: str, tiny_llama) -> None:
    made = WRITERS[wanted](subject(tiny_llama))
    fields = yaml.safe_load(next(iter(made.files.values())))
    values = list(fields.values())
    for value in (2e-3, 3, 48, 7, 8, 16, 0.1, True):
        assert value in values, (value, fields)
    targets = next(fields[name] for name in ("lora_target_modules", "lora_target") if name in fields)
    assert targets in (["q_proj", "v_proj"], "q_proj,v_proj")
    batch = {"per_device_train_batch_size": 4, "micro_batch_size": 4, "gradient_accumulation_steps": 2}
    assert len({*batch.items()} & {(name, fields.get(name)) for name in batch}) == 2


def test_chosen_layers_are_named_one_by_one(tiny_llama) -> None:
    made = WRITERS["trl"](subject(tiny_llama, layers="last-quarter"))
    fields = yaml.safe_load(made.files["sft.yaml"])
    assert fields["lora_target_modules"] == ["3.self_attn.q_proj", "3.self_attn.v_proj"] or all(
        ".3." in f".{name}." for name in fields["lora_target_modules"]
    )


def test_a_packed_base_is_packed_alike(tiny_llama) -> None:
    asked = subject(tiny_llama, quantization="nf4-dq")
    trl = yaml.safe_load(WRITERS["trl"](asked).files["sft.yaml"])
    assert (trl["load_in_4bit"], trl["bnb_4bit_quant_type"], trl["use_bnb_nested_quant"]) == (
        True,
        "nf4",
        True,
    )
    assert yaml.safe_load(WRITERS["axolotl"](asked).files["axolotl.yaml"])["adapter"] == "qlora"
    assert "bnb_4bit_use_double_quant=True" in WRITERS["script"](asked).files["train.py"]


@pytest.mark.parametrize(("quantization", "code", "double"), [("nf4", "nf4", False), ("fp4-dq", "fp4", True)])
def test_the_code_of_four_bits_and_its_scales_are_written_where_a_tool_has_them(
    quantization, code, double, tiny_llama
) -> None:
    asked = subject(tiny_llama, quantization=quantization)
    assert yaml.safe_load(WRITERS["axolotl"](asked).files["axolotl.yaml"])["bnb_config_kwargs"] == {
        "bnb_4bit_quant_type": code,
        "bnb_4bit_use_double_quant": double,
    }
    fields = yaml.safe_load(WRITERS["llama-factory"](asked).files["llama-factory.yaml"])
    assert (fields["quantization_type"], fields["double_quantization"]) == (code, double)
    for wanted in ("unsloth", "torchtune"):
        with pytest.raises(UnsupportedError, match=f"nf4-dq, not {quantization}"):
            WRITERS[wanted](asked)


@pytest.mark.parametrize("wanted", FORMATS)
def test_weights_of_sixteen_bit_floats_are_refused(wanted, tiny_llama) -> None:
    with pytest.raises(UnsupportedError, match="of fp32 and bf16, not of fp16"):
        WRITERS[wanted](subject(tiny_llama, training=Training(precision="fp16", max_length=48)))


@pytest.mark.parametrize(
    ("wanted", "fields", "reason"),
    [
        ("trl", {"method": "ia3", "rank": None}, "TRL does not know ia3"),
        ("trl", {"method": "pissa"}, "TRL has no init_lora_weights='pissa'"),
        ("llama-factory", {"method": "olora"}, "has no init_lora_weights='olora'"),
        ("unsloth", {"method": "dora"}, "not DoRA"),
        ("torchtune", {}, "this recipe knows Llama-3-8B"),
        ("script", {"method": "bottleneck", "rank": None}, "bottleneck trains by code of autopeft"),
        ("script", {"method": "eva"}, "eva starts from what the data say"),
        ("axolotl", {"training": Training(optimizer="mezo", max_length=48)}, "no optimizer mezo"),
        ("script", {"training": Training(optimizer="lion", max_length=48)}, "with AdamW, not with lion"),
    ],
)
def test_what_a_tool_cannot_do_is_refused_with_the_reason(wanted, fields, reason, tiny_llama) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        WRITERS[wanted](subject(tiny_llama, **fields))


@pytest.mark.parametrize("wanted", [each for each in FORMATS if each != "script"])
def test_tools_that_train_writers_do_not_take_an_encoder(wanted, tiny_bert) -> None:
    asked = subject_of(Candidate(method="lora", training=TRAINING), tiny_bert, None, "classification", 0)
    with pytest.raises(UnsupportedError, match="take --format script"):
        WRITERS[wanted](asked)


def test_scripts_are_python_and_files_are_plain(tiny_llama) -> None:
    for wanted in ("unsloth", "script"):
        (text,) = WRITERS[wanted](subject(tiny_llama)).files.values()
        compile(text, wanted, "exec")
        assert "import autopeft" not in text
    info = json.loads(WRITERS["llama-factory"](subject(tiny_llama)).files["dataset_info.json"])
    assert info["train"]["file_name"] == "train.jsonl"


def test_what_a_recipe_says_it_is_of_is_one_line_without_quotes(tiny_llama) -> None:
    harmful = subject(tiny_llama).model_copy(update={"name": 'x"""\nprint(1)\n\\'})
    assert said_of(harmful).endswith("on x''' print(1) /, written by autopeft")


def test_candidates_are_read_from_a_plan_a_line_or_lines(tmp_path: Path) -> None:
    one, other = Candidate(method="lora"), Candidate(method="ia3")
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"fits": [{"candidate": each.model_dump()} for each in (one, other)]}))
    assert candidates_in(str(file)) == [one, other]
    file.write_text(one.model_dump_json())
    assert candidates_in(str(file)) == [one]
    file.write_text("".join(f"{each.model_dump_json()}\n" for each in (one, other)))
    assert candidates_in(str(file)) == [one, other]


TEMPLATE = (
    "{% for one in messages %}<{{ one['role'] }}>{{ one['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def chat_model(decoder_with_weights, tmp_path: Path):
    """The tiny decoder, whose tokenizer has a chat template."""
    place = tmp_path / "chat"
    shutil.copytree(decoder_with_weights.path, place)
    (place / "chat_template.jinja").write_text(TEMPLATE)
    return decoder_with_weights.model_copy(update={"path": str(place)})


def first_row(folder: Path, wanted: str, base, dataset) -> dict[str, object]:
    asked = subject_of(Candidate(method="lora", training=TRAINING), base, dataset, None, 0)
    write_rows(folder, dataset, asked, base, wanted)
    with (folder / "train.jsonl").open() as lines:
        return json.loads(next(lines))


def test_rows_of_a_chat_model_are_rendered_for_the_script(chat_model, turns, tmp_path) -> None:
    row, asked = first_row(tmp_path, "script", chat_model, turns), turns.train[0]
    assert row == {
        "prompt": f"<user>{asked.text}</s><assistant>",
        "completion": f"{asked.completion}</s>",
    }


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("wanted", ["trl", "unsloth"])
def test_prompts_of_a_chat_model_stand_apart_where_that_masks_them(
    wanted, chat_model, turns, tmp_path
) -> None:
    row, asked = first_row(tmp_path, wanted, chat_model, turns), turns.train[0]
    assert row == {"prompt": user(asked.text), "completion": assistant(asked.completion)}


@pytest.mark.parametrize("wanted", ["axolotl", "llama-factory", "torchtune"])
def test_other_tools_take_whole_conversations(wanted, chat_model, turns, tmp_path) -> None:
    row, asked = first_row(tmp_path, wanted, chat_model, turns), turns.train[0]
    assert row == {"messages": [*user(asked.text), *assistant(asked.completion)]}


def test_pairs_of_answers_of_a_chat_model_are_turns(chat_model, turns, tmp_path) -> None:
    pair = Example(text="question", completion="yes", rejected="no")
    pairs = turns.model_copy(update={"task": "dpo", "train": (pair,), "validation": (), "test": ()})
    assert first_row(tmp_path, "trl", chat_model, pairs) == {
        "prompt": user("question"),
        "chosen": assistant("yes"),
        "rejected": assistant("no"),
    }


def test_rows_without_a_template_are_plain_and_the_script_ends_them(
    decoder_with_weights, turns, tmp_path
) -> None:
    row, asked = first_row(tmp_path, "script", decoder_with_weights, turns), turns.train[0]
    assert row == {"prompt": f"{asked.text}\n", "completion": asked.completion}


@pytest.mark.parametrize("chat", [False, True])
def test_the_script_learns_the_very_tokens_that_autopeft_learns(
    chat, chat_model, decoder_with_weights, turns, tmp_path
) -> None:
    base = chat_model if chat else decoder_with_weights
    asked = subject_of(Candidate(method="lora", training=TRAINING), base, turns, None, 0)
    text = WRITERS["script"](asked).files["train.py"]
    wanted = next(
        each for each in ast.parse(text).body if isinstance(each, ast.FunctionDef) and each.name == "encode"
    )
    tokenizer = load_tokenizer(base)
    names = {"tokenizer": tokenizer, "LENGTH": TRAINING.max_length}
    exec(ast.unparse(wanted), names)
    row = first_row(tmp_path, "script", base, turns)
    assert names["encode"](row) == encode(tokenizer, turns.train[0], "sft", TRAINING.max_length)


def ran(made: Recipe, folder: Path, dataset, asked: Subject, base) -> dict[str, float]:
    """Run a script in a process that has no autopeft, and return what it scored."""
    for name, text in made.files.items():
        (folder / name).write_text(text)
    write_rows(folder, dataset, asked, base, "script")
    done = subprocess.run(
        [sys.executable, "-I", "train.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classification", "regression", "sft"])
def test_the_script_reproduces_the_score_within_noise(
    kind, encoder_with_weights, decoder_with_weights, sentiment, ratings, turns, tmp_path
) -> None:
    base, dataset = {
        "classification": (encoder_with_weights, sentiment),
        "regression": (encoder_with_weights, ratings),
        "sft": (decoder_with_weights, turns),
    }[kind]
    training = Training(learning_rate=3e-3, batch_size=8, epochs=12, max_length=32)
    candidate = Candidate(method="lora", rank=8, targets="all-linear", training=training)
    run = Trainer(base, dataset, candidate, seed=0)
    run.advance(10**9)
    expected = run.evaluate("test").score
    asked = subject_of(candidate, base, dataset, None, 0)
    (found,) = ran(WRITERS["script"](asked), tmp_path, dataset, asked, base).values()
    # Sixty rows, or twenty: one standard error of a share of a half is 0.065.
    assert found == pytest.approx(expected, abs=0.13)
