from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from autopeft.errors import InputError
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Example
from autopeft.workload.models import find_model
from autopeft.workload.tokens import (
    IGNORED,
    PlainTokenizer,
    encode,
    load_tokenizer,
    measure_lengths,
    measure_targets,
    other_answer,
    render_turn,
)

TEMPLATE = (
    "{% for message in messages %}{{ bos_token }}{{ message['role'] }} {{ message['content'] }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ bos_token }}assistant {% endif %}"
)
TURN = Example(text="question the film", completion="answer good good good")


def with_template(base: BaseModel, folder: Path, template: str = TEMPLATE) -> BaseModel:
    """Copy a model's tokenizer beside a chat template."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((Path(base.path or "") / name).read_bytes())
    (folder / "chat_template.jinja").write_text(template)
    return base.model_copy(update={"path": str(folder)})


def test_a_text_has_special_tokens_no_labels_and_at_most_the_limit(encoder_with_weights: BaseModel) -> None:
    tokenizer = load_tokenizer(encoder_with_weights)
    ids, labels = encode(tokenizer, Example(text="good film"), "classification", 8)
    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "good", "film", "[SEP]"]
    assert labels == []
    assert len(encode(tokenizer, Example(text="good " * 50), "classification", 8)[0]) == 8


def test_the_prompt_is_left_out_of_the_loss(decoder_with_weights: BaseModel) -> None:
    tokenizer = load_tokenizer(decoder_with_weights)
    ids, labels = encode(tokenizer, TURN, "sft", 64)
    words = ["[CLS]", "question", "the", "film", "answer", "good", "good", "good", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids) == words
    assert labels == [IGNORED] * 4 + ids[4:]


def test_the_limit_cuts_the_prompts_beginning_before_the_completions_end(
    decoder_with_weights: BaseModel,
) -> None:
    tokenizer = load_tokenizer(decoder_with_weights)
    long = Example(text="a was very question the film", completion="answer good bad")
    ids, labels = encode(tokenizer, long, "sft", 8)
    assert tokenizer.convert_ids_to_tokens(ids)[4:] == ["answer", "good", "bad", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids)[:4] == ["very", "question", "the", "film"]
    assert labels == [IGNORED] * 4 + ids[4:]
    ids, labels = encode(tokenizer, long, "sft", 4)
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "film", "answer", "good"]
    assert labels == [IGNORED, IGNORED, *ids[2:]]


@pytest.mark.parametrize("limit", range(1, 12))
def test_a_turn_keeps_something_to_learn_at_every_limit(decoder_with_weights: BaseModel, limit: int) -> None:
    ids, labels = encode(load_tokenizer(decoder_with_weights), TURN, "sft", limit)
    assert len(ids) == len(labels) <= limit
    assert labels[-1] != IGNORED


def test_a_chat_template_renders_the_turn(decoder_with_weights: BaseModel, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(with_template(decoder_with_weights, tmp_path))
    given, rest = render_turn(tokenizer, "the film", "good")
    assert given == "[CLS]user the film[SEP][CLS]assistant "
    assert rest == "good[SEP]"
    ids, labels = encode(tokenizer, Example(text="the film", completion="good"), "sft", 64)
    assert tokenizer.decode(ids[-2:]) == "good [SEP]"
    assert labels[-3:] == [IGNORED, *ids[-2:]]


def test_a_template_that_refuses_the_turn_says_so(decoder_with_weights: BaseModel, tmp_path: Path) -> None:
    refusing = "{{ raise_exception('no users here') }}"
    tokenizer = load_tokenizer(with_template(decoder_with_weights, tmp_path, refusing))
    with pytest.raises(InputError, match="no users here"):
        render_turn(tokenizer, "a", "b")


@pytest.mark.parametrize("templated", [False, True])
def test_lengths_are_measured_as_training_encodes(
    decoder_with_weights: BaseModel, turns: Dataset, tmp_path: Path, templated: bool
) -> None:
    base = with_template(decoder_with_weights, tmp_path) if templated else decoder_with_weights
    plain = PlainTokenizer(Path(base.path or "") / "tokenizer.json")
    tokenizer = load_tokenizer(base)
    for row in turns.train:
        assert encode(plain, row, "sft", 6) == encode(tokenizer, row, "sft", 6)
    longest = max(len(encode(tokenizer, row, "sft", 99)[0]) for row in turns.train)
    assert measure_lengths(turns, base, 99).longest == longest
    assert measure_lengths(turns, base, 3).longest == 3


def test_lengths_of_texts_are_measured_as_training_encodes(
    encoder_with_weights: BaseModel, sentiment: Dataset
) -> None:
    tokenizer = load_tokenizer(encoder_with_weights)
    lengths = measure_lengths(sentiment, encoder_with_weights, 64)
    counted = [len(encode(tokenizer, row, "classification", 64)[0]) for row in sentiment.train]
    assert lengths.mean == pytest.approx(sum(counted) / len(counted))
    assert (lengths.percentiles[0], lengths.longest) == (min(counted), max(counted))


def test_measuring_a_local_model_loads_no_torch(
    decoder_with_weights: BaseModel, turns: Dataset, tmp_path: Path
) -> None:
    base = with_template(decoder_with_weights, tmp_path)
    (tmp_path / "base.json").write_text(base.model_dump_json())
    (tmp_path / "turns.json").write_text(turns.model_dump_json())
    code = (
        "import sys; from pathlib import Path; from autopeft.workload.base_model import BaseModel;"
        "from autopeft.workload.dataset import Dataset; from autopeft.workload.tokens import measure_lengths;"
        f"folder = Path({str(tmp_path)!r});"
        "measure_lengths(Dataset.read(folder / 'turns.json'), BaseModel.read(folder / 'base.json'), 9);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_tokenizer_without_pad_token_pads_with_its_end(
    decoder_with_weights: BaseModel, tmp_path: Path
) -> None:
    base = with_template(decoder_with_weights, tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = load_tokenizer(base)
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("[SEP]", "right")


def test_a_model_without_weights_has_no_tokenizer(tiny_llama: BaseModel, turns: Dataset) -> None:
    with pytest.raises(InputError, match="--seq-len"):
        load_tokenizer(tiny_llama)
    with pytest.raises(InputError, match="--seq-len"):
        measure_lengths(turns, tiny_llama, 8)


def test_a_directory_with_a_tokenizer_needs_no_weights_to_measure_rows(
    decoder_with_weights: BaseModel, turns: Dataset, tmp_path: Path
) -> None:
    with_template(decoder_with_weights, tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "config.json").write_text(json.dumps(decoder_with_weights.config))
    bare = find_model(str(tmp_path))
    assert bare.path is None
    assert measure_lengths(turns, bare, 9) == measure_lengths(turns, decoder_with_weights, 9)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_malformed_tokenizer_is_one_clear_line(
    decoder_with_weights: BaseModel, turns: Dataset, tmp_path: Path, file: str
) -> None:
    base = with_template(decoder_with_weights, tmp_path)
    (tmp_path / file).write_text("[]")
    for use in (lambda: load_tokenizer(base), lambda: measure_lengths(turns, base, 8)):
        with pytest.raises(InputError, match="tokenizer") as caught:
            use()
        assert "\n" not in str(caught.value)


def byte_level(folder: Path) -> BaseModel:
    """Save a tokenizer that cuts words into bytes and pairs of them, as GPT-2's does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(["Ada of Rome was here", "of Rome"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="!").save_pretrained(folder)
    return BaseModel(name="bytes", family="decoder", source="made for tests", config={}, path=str(folder))


WORDS = Example(text="Ada of Zürich", words=("Ada", "of", "Zürich"), tags=(5, 0, 7))


def test_the_tag_of_a_word_stands_at_its_first_token_only(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(byte_level(tmp_path))
    ids, labels = encode(tokenizer, WORDS, "token-classification", 64)
    assert len(ids) == len(labels) > len(WORDS.words)
    assert [label for label in labels if label != IGNORED] == [5, 0, 7]
    for label, start in ((5, "A"), (0, "of"), (7, "Z")):
        piece = tokenizer.decode([ids[labels.index(label)]]).strip()
        assert piece
        assert start.startswith(piece) or piece.startswith(start)


def test_tags_are_placed_without_torch_as_with_it(tmp_path: Path, encoder_with_weights: BaseModel) -> None:
    for base in (byte_level(tmp_path), encoder_with_weights):
        plain = PlainTokenizer(Path(base.path or "") / "tokenizer.json")
        whole = load_tokenizer(base)
        for limit in (64, 3):
            assert encode(plain, WORDS, "token-classification", limit) == encode(
                whole, WORDS, "token-classification", limit
            )


def test_words_that_are_cut_off_have_no_tag(encoder_with_weights: BaseModel) -> None:
    long = Example(text="good bad film plot", words=("good", "bad", "film", "plot"), tags=(1, 2, 3, 4))
    tokenizer = load_tokenizer(encoder_with_weights)
    assert encode(tokenizer, long, "token-classification", 4)[1] == [IGNORED, 1, 2, IGNORED]


@pytest.mark.parametrize("nothing", ["\u200b", "\ufe0f", "\u00ad"])
def test_a_word_of_which_nothing_is_left_has_its_tag_as_an_unknown_one(
    nothing: str, encoder_with_weights: BaseModel
) -> None:
    words = ("good", nothing, "film")
    row = Example(text=" ".join(words), words=words, tags=(1, 2, 3))
    tokenizer = load_tokenizer(encoder_with_weights)
    ids, labels = encode(tokenizer, row, "token-classification", 16)
    assert [label for label in labels if label != IGNORED] == [1, 2, 3]
    assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == ["good", "[UNK]", "film"]


def test_an_encoder_decoder_reads_and_writes_apart(seq2seq_with_weights: BaseModel) -> None:
    tokenizer = load_tokenizer(seq2seq_with_weights)
    ids, labels = encode(tokenizer, TURN, "sft", 16, "encoder-decoder")
    assert tokenizer.decode(ids, skip_special_tokens=True) == TURN.text
    assert tokenizer.decode(labels, skip_special_tokens=True) == TURN.completion
    assert labels[-1] == tokenizer.eos_token_id
    assert len(encode(tokenizer, TURN, "sft", 3, "encoder-decoder")[1]) == 3


def test_targets_are_measured_apart_where_they_are_written_apart(
    seq2seq_with_weights: BaseModel, decoder_with_weights: BaseModel, turns: Dataset
) -> None:
    found = measure_targets(turns, seq2seq_with_weights, 16)
    assert found is not None
    assert found.longest == 4  # answer and its word between the two special tokens
    assert measure_targets(turns, decoder_with_weights, 16) is None


def test_a_pair_is_as_long_as_the_longer_of_its_answers(
    decoder_with_weights: BaseModel, pairs: Dataset
) -> None:
    tokenizer = load_tokenizer(decoder_with_weights)
    row = pairs.train[0]
    longer = row.model_copy(update={"completion": row.rejected})
    expected = len(encode(tokenizer, longer, "dpo", 16)[0])
    assert measure_lengths(pairs, decoder_with_weights, 16).longest == expected


def test_both_answers_of_a_pair_follow_the_same_part_of_the_prompt(encoder_with_weights: BaseModel) -> None:
    tokenizer = load_tokenizer(encoder_with_weights)
    pair = Example(text="question " + "the film " * 9, completion="good", rejected="answer " * 6)
    other = other_answer(pair)
    assert other is not None
    (chosen, wanted), (rejected, unwanted) = (encode(tokenizer, each, "dpo", 16) for each in (pair, other))
    prompts = [ids[: labels.count(IGNORED)] for ids, labels in ((chosen, wanted), (rejected, unwanted))]
    assert prompts[0] == prompts[1] != []
    assert len(rejected) == 16
