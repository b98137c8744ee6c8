"""Parts that many tests share: tiny architectures, and data whose answer is in the text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import ACCURACY, HELD_OUT_LOSS, Dataset, Example
from autopeft.workload.tasks import TASKS, Task

# How long an example takes says how busy the machine is; no test asserts it.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

TINY_BERT = BaseModel(
    name="tiny-bert",
    family="encoder",
    source="made for tests",
    config={
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 100,
        "max_position_embeddings": 64,
    },
)
TINY_LLAMA = BaseModel(
    name="tiny-llama",
    family="decoder",
    source="made for tests",
    config={
        "model_type": "llama",
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 100,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
TINY_GPT2 = BaseModel(
    name="tiny-gpt2",
    family="decoder",
    source="made for tests",
    config={
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 4,
        "n_head": 4,
        "vocab_size": 100,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)
TINY_T5 = BaseModel(
    name="tiny-t5",
    family="encoder-decoder",
    source="made for tests",
    config={
        "model_type": "t5",
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": 100,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "decoder_start_token_id": 0,
    },
)


@pytest.fixture
def tiny_t5() -> BaseModel:
    return TINY_T5


@pytest.fixture
def tiny_bert() -> BaseModel:
    return TINY_BERT


@pytest.fixture
def tiny_llama() -> BaseModel:
    return TINY_LLAMA


@pytest.fixture
def tiny_gpt2() -> BaseModel:
    return TINY_GPT2


WORDS = ("good", "bad", "film", "plot", "actor", "scene", "the", "a", "was", "very", "question", "answer")


def _save_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        word: index for index, word in enumerate(("[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS, "[MASK]"))
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        bos_token="[CLS]",
        eos_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def _save_model(base: BaseModel, folder: Path, head: str) -> BaseModel:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**base.config)
    getattr(transformers, head).from_config(config).save_pretrained(folder)
    _save_tokenizer(folder)
    return base.model_copy(update={"path": str(folder), "name": str(folder)})


@pytest.fixture(scope="session")
def encoder_with_weights(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A tiny encoder on disk, with a tokenizer of twelve words."""
    return _save_model(TINY_BERT, tmp_path_factory.mktemp("tiny-bert"), "AutoModel")


@pytest.fixture(scope="session")
def decoder_with_weights(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A tiny decoder on disk, with a tokenizer of twelve words."""
    return _save_model(TINY_LLAMA, tmp_path_factory.mktemp("tiny-llama"), "AutoModelForCausalLM")


@pytest.fixture(scope="session")
def guesser_with_weights(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A tiny encoder on disk with the head that guesses hidden words."""
    return _save_model(TINY_BERT, tmp_path_factory.mktemp("tiny-guesser"), "AutoModelForMaskedLM")


@pytest.fixture(scope="session")
def seq2seq_with_weights(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    """A tiny encoder-decoder on disk, with a tokenizer of twelve words."""
    return _save_model(TINY_T5, tmp_path_factory.mktemp("tiny-t5"), "AutoModelForSeq2SeqLM")


@pytest.fixture(scope="session")
def sentiment() -> Dataset:
    """Rows that say good or bad, so that anything that learns at all gets them right."""
    dice = random.Random(0)

    def rows(count: int) -> tuple[Example, ...]:
        found = []
        for index in range(count):
            words = [dice.choice(WORDS[2:10]) for _ in range(dice.randint(2, 9))]
            words.insert(dice.randrange(len(words)), ("bad", "good")[index % 2])
            found.append(Example(text=" ".join(words), label=index % 2))
        return tuple(found)

    return Dataset(
        name="sentiment",
        task="classification",
        metric=ACCURACY,
        train=rows(120),
        validation=rows(40),
        test=rows(60),
        labels=("negative", "positive"),
        source="made for tests",
        fingerprint="sentiment-1",
    )


@pytest.fixture(scope="session")
def turns() -> Dataset:
    """Questions whose answer repeats one of their words."""
    dice = random.Random(0)

    def rows(count: int) -> tuple[Example, ...]:
        words = [dice.choice(WORDS[:6]) for _ in range(count)]
        return tuple(Example(text=f"question {word}", completion=f"answer {word}") for word in words)

    return Dataset(
        name="turns",
        task="sft",
        metric=HELD_OUT_LOSS,
        train=rows(60),
        validation=rows(20),
        test=rows(20),
        source="made for tests",
        fingerprint="turns-1",
    )


def dataset_of(
    task: Task, rows: Callable[[int], tuple[Example, ...]], labels: tuple[str, ...] = ()
) -> Dataset:
    """Make a dataset of 120, 40 and 60 rows."""
    return Dataset(
        name=task,
        task=task,
        metric=TASKS[task].metric,
        train=rows(120),
        validation=rows(40),
        test=rows(60),
        labels=labels,
        source="made for tests",
        fingerprint=f"{task}-1",
    )


@pytest.fixture(scope="session")
def ratings() -> Dataset:
    """Texts rated by 100 and 7 for every good and less 7 for every bad."""
    dice = random.Random(0)

    def rows(count: int) -> tuple[Example, ...]:
        texts = [[dice.choice(("good", "bad", *WORDS[2:5])) for _ in range(8)] for _ in range(count)]
        rated = [100 + 7 * (words.count("good") - words.count("bad")) for words in texts]
        return tuple(
            Example(text=" ".join(words), number=number) for words, number in zip(texts, rated, strict=True)
        )

    return dataset_of("regression", rows)


@pytest.fixture(scope="session")
def entities() -> Dataset:
    """Words of which a good film or plot is one kind of span, a bad actor or scene the other."""
    dice = random.Random(0)
    labels = ("O", "B-praise", "I-praise", "B-blame", "I-blame")

    def row() -> Example:
        words, tags = ["the"], [0]
        for _ in range(dice.randint(1, 3)):
            kind = dice.randrange(2)
            nouns = (("film", "plot"), ("actor", "scene"))[kind]
            words += [("good", "bad")[kind], dice.choice(nouns), "was", "very"]
            tags += [1 + 2 * kind, 2 + 2 * kind, 0, 0]
        return Example(text=" ".join(words), words=tuple(words), tags=tuple(tags))

    return dataset_of("token-classification", lambda count: tuple(row() for _ in range(count)), labels)


@pytest.fixture(scope="session")
def texts() -> Dataset:
    """Texts that say one thing again and again, so that a hidden word can be guessed."""

    def rows(count: int) -> tuple[Example, ...]:
        starts = [("good film", "bad plot")[index % 2] for index in range(count)]
        return tuple(Example(text=f"{start} " * (2 + index % 3)) for index, start in enumerate(starts))

    return dataset_of("masked-lm", rows)


@pytest.fixture(scope="session")
def pairs() -> Dataset:
    """Questions of which the answer that says good is preferred."""
    dice = random.Random(0)

    def rows(count: int) -> tuple[Example, ...]:
        return tuple(
            Example(
                text=f"question {dice.choice(WORDS[2:6])}",
                completion=f"answer good {dice.choice(WORDS[2:6])}",
                rejected=f"answer bad {dice.choice(WORDS[2:6])} very",
            )
            for _ in range(count)
        )

    return dataset_of("dpo", rows)


LONGEST = (
    *("journey/test_journey.py", "export/test_writer.py", "cost/tracing/test_trace.py"),
    *("export/test_every_method.py", "cost/tracing/test_batches.py", "service/test_results.py"),
    *("journey/test_refitting.py", "search/test_ray_runner.py", "cost/test_model.py"),
    *("journey/test_verifying.py", "cli/test_malformed_inputs.py"),
)
"""Files that take a minute and more: begun last, one would keep a core busy alone at the end."""


SAMPLED = {
    "test_a_run_cut_in_two_ends_as_the_run_in_one": 4,
    "test_a_method_does_on_fake_tensors_what_it_does_on_real_ones": 3,
    "test_a_trial_is_to_the_bit_what_it_is_with_a_freshly_loaded_base": 3,
    "test_a_method_is_on_fake_tensors_what_it_is_on_real_ones_and_trains": 3,
    "test_a_real_step_of_every_family_is_the_fake_one_byte_for_byte": 2,
    "test_a_method_keeps_its_contract_on_one_family": 3,
    "test_few_layers_and_other_shapes_expand_to_what_all_layers_do": 2,
    "test_adapters_of_our_own_train_on_the_real_and_the_fake_packed_base": 3,
    "test_what_a_preparation_decided_is_put_back_where_it_would_decide_otherwise": 2,
    "test_a_task_does_on_fake_tensors_what_it_does_on_real_ones": 2,
    "test_a_plan_of_a_task_is_traced": 3,
    "test_dropout_and_any_optimizer_go_on_as_they_were_after_a_restore": 2,
}
"""Tests of much the same for each method or task: the usual suite takes every n-th, the slow one all."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and leave to the slow suite what others stand for."""
    here = Path(__file__).parent
    place = {str(here / name): at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(str(item.path), len(place)))
    seen = Counter[str]()
    for item in items:
        name = getattr(item, "originalname", item.name)
        if name in SAMPLED and item.get_closest_marker("slow") is None:
            if seen[name] % SAMPLED[name]:
                item.add_marker(pytest.mark.slow)
            seen[name] += 1
