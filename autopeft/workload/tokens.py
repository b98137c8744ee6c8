"""Rows to token ids: one rendering for training, for measuring lengths and for the exported model."""

from __future__ import annotations

import bisect
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autopeft.errors import InputError
from autopeft.workload import hub
from autopeft.workload.base_model import BaseModel, Family
from autopeft.workload.dataset import Dataset, Example, Lengths
from autopeft.workload.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that the loss leaves out."""

_FILES = ("tokenizer.json", "tokenizer_config.json")
_WAYS_OUT = (
    "It is needed to count the tokens of rows: as the model name a directory with config.json and "
    "tokenizer.json (of a service: one below its --models DIR), or plan without the rows: --seq-len N "
    "--examples N instead of --data."
)


class Tokenizer(Protocol):
    """What encoding needs of a tokenizer; every transformers tokenizer has it."""

    chat_template: Any

    @property
    def eos_token(self) -> Any:
        """Text of the token that ends a completion; None where there is none."""

    @property
    def unk_token(self) -> Any:
        """Text of the token of what is unknown; None where nothing is."""

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]:
        """Tokenize `text` into a mapping with `input_ids`."""

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Render messages with the chat template."""


def load_tokenizer(base: BaseModel) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, padding on the right and with a pad token in any case.

    Raises:
        InputError: the model has no tokenizer at hand, or it cannot be read.
    """
    place = _place(base)
    if not Path(place).is_dir():
        hub.fetch(place, "tokenizer_config.json", what=f"the tokenizer of {place!r}", way_out=_WAYS_OUT)
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 (a malformed file makes transformers raise almost anything)
        raise InputError(f"the tokenizer of {base.name!r} cannot be loaded: {_first_line(error)}") from None
    if tokenizer.pad_token is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise InputError(f"the tokenizer of {base.name!r} must have a pad, eos or unk token.")
        tokenizer.pad_token = substitute
    tokenizer.padding_side = "right"
    return tokenizer


def render_turn(tokenizer: Tokenizer, prompt: str, completion: str) -> tuple[str, str]:
    """Render one turn as text: what the model is given, and what it is to write.

    With a chat template the turn is one user and one assistant message; without, the prompt ends in a
    line break and the completion in the end-of-sequence token.

    Raises:
        InputError: the chat template refuses a user message followed by an assistant message.
    """
    ending = tokenizer.eos_token or ""
    if not tokenizer.chat_template:
        return (prompt if prompt.endswith(("\n", " ")) else f"{prompt}\n"), f"{completion}{ending}"
    from jinja2.exceptions import TemplateError

    question = {"role": "user", "content": prompt}
    answer = {"role": "assistant", "content": completion}
    try:
        given = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template([question, answer], tokenize=False)
    except TemplateError as error:
        raise InputError(
            f"the chat template cannot render a user and an assistant message: {error}."
        ) from None
    if whole.startswith(given):
        return given, whole[len(given) :]
    return given, f"{completion}{ending}"


def encode(
    tokenizer: Tokenizer, example: Example, task: Task, max_length: int, kind: Family = "decoder"
) -> tuple[list[int], list[int]]:
    """Turn a row into at most `max_length` token ids, and into labels where they are tokens or stand by them.

    Args:
        tokenizer: the model's.
        example: the row.
        task: what is learnt of it.
        max_length: most tokens of a row, and of what an encoder-decoder writes.
        kind: the family whose batches the model takes; one that reads and writes apart has labels of a
            length of their own.

    Raises:
        InputError: the tokenizer cannot do what the task needs.
    """
    maker = _ENCODERS.get((task, kind)) or _ENCODERS[task, None]
    return maker(tokenizer, example, max_length)


def _encode_text(tokenizer: Tokenizer, example: Example, max_length: int) -> tuple[list[int], list[int]]:
    """Encode the text with special tokens; what is to be learnt of it the example knows."""
    return list(tokenizer(example.text, truncation=True, max_length=max_length)["input_ids"]), []


def _encode_words(tokenizer: Tokenizer, example: Example, max_length: int) -> tuple[list[int], list[int]]:
    """Encode words between spaces; the label of a word stands at its first token, `IGNORED` elsewhere.

    A word of which the tokenizer makes nothing, such as a zero-width space, is read as an unknown one: every
    word has its label.
    """
    ids, places = _tokens_of_words(tokenizer, example.words, max_length)
    begun = [place for place in places if place is not None]
    lost = set(range(max(begun, default=-1))).difference(begun)
    if lost and tokenizer.unk_token:
        words = [tokenizer.unk_token if at in lost else word for at, word in enumerate(example.words)]
        ids, places = _tokens_of_words(tokenizer, words, max_length)
    return ids, [IGNORED if place is None else example.tags[place] for place in places]


def _tokens_of_words(
    tokenizer: Tokenizer, words: Sequence[str], max_length: int
) -> tuple[list[int], list[int | None]]:
    """Return the tokens of words between spaces, and of each which word it begins, or None."""
    text = " ".join(words)
    found = tokenizer(text, truncation=True, max_length=max_length, return_offsets_mapping=True)
    starts = list(itertools.accumulate((len(word) + 1 for word in words[:-1]), initial=0))
    places: list[int | None] = []
    seen = -1
    for first, last in found["offset_mapping"]:
        piece = text[first:last]
        word = bisect.bisect_right(starts, first + len(piece) - len(piece.lstrip())) - 1
        is_new = bool(piece.strip()) and word > seen
        places.append(word if is_new else None)
        seen = word if is_new else seen
    return list(found["input_ids"]), places


def _encode_turn(tokenizer: Tokenizer, example: Example, max_length: int) -> tuple[list[int], list[int]]:
    """Encode prompt and completion in one; labels are `IGNORED` on the prompt.

    Where the limit bites, the prompt loses its beginning, down to half the limit, and then the completion
    its end. The prompt of a pair of answers is cut for the longer one, so that both have the same.
    """
    given, rest = render_turn(tokenizer, example.text, example.completion)
    prompt = list(tokenizer(given, add_special_tokens=False, verbose=False)["input_ids"])
    answer = list(tokenizer(rest, add_special_tokens=False, verbose=False)["input_ids"])
    if not tokenizer.chat_template:
        prompt = _opening(tokenizer) + prompt
    longest = len(answer)
    if example.rejected:
        _, other = render_turn(tokenizer, example.text, example.rejected)
        longest = max(longest, len(tokenizer(other, add_special_tokens=False, verbose=False)["input_ids"]))
    room = max(max_length - longest, max_length // 2)
    prompt = prompt[max(len(prompt) - room, 0) :]
    answer = answer[: max_length - len(prompt)]
    return prompt + answer, [IGNORED] * len(prompt) + answer


def _encode_apart(tokenizer: Tokenizer, example: Example, max_length: int) -> tuple[list[int], list[int]]:
    """Encode what is read and what is to be written; the latter ends in the end token unless it is cut."""
    target = list(tokenizer(example.completion, truncation=True, max_length=max_length)["input_ids"])
    if tokenizer.eos_token and len(target) < max_length:
        (end, *_) = tokenizer(tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        target += [end] * (target[-1:] != [end])
    return _encode_text(tokenizer, example, max_length)[0], target


_Encoder = Callable[[Tokenizer, Example, int], tuple[list[int], list[int]]]
_ENCODERS: dict[tuple[Task, Family | None], _Encoder] = {
    ("classification", None): _encode_text,
    ("regression", None): _encode_text,
    ("token-classification", None): _encode_words,
    ("masked-lm", None): _encode_text,
    ("sft", None): _encode_turn,
    ("sft", "encoder-decoder"): _encode_apart,
    ("dpo", None): _encode_turn,
}
"""How rows of a task are encoded, for a family or (None) for the rest."""


def other_answer(example: Example) -> Example | None:
    """Return a pair of answers as the turn with the rejected one; None where there is no pair."""
    if not example.rejected:
        return None
    return example.model_copy(update={"completion": example.rejected, "rejected": example.completion})


def measure_lengths(dataset: Dataset, base: BaseModel, max_length: int) -> Lengths:
    """Count the tokens of the training rows as `encode` would make them; needs no torch for a local model.

    A pair of answers is as long as the longer of its turns.

    Raises:
        InputError: the model has no tokenizer at hand, or it cannot be read.
    """
    lengths = [len(ids) for ids, _ in _encoded(dataset, base, max_length)]
    pairs = [other for row in dataset.train if (other := other_answer(row)) is not None]
    if pairs:
        others = _encoded(dataset.model_copy(update={"train": tuple(pairs)}), base, max_length)
        lengths = [max(one, len(ids)) for one, (ids, _) in zip(lengths, others, strict=True)]
    return Lengths.of(lengths)


def measure_targets(dataset: Dataset, base: BaseModel, max_length: int) -> Lengths | None:
    """Count the tokens that an encoder-decoder is to write for each training row; None where it writes none.

    Raises:
        InputError: the model has no tokenizer at hand, or it cannot be read.
    """
    if (dataset.task, base.family) not in _ENCODERS:
        return None
    return Lengths.of([len(labels) for _, labels in _encoded(dataset, base, max_length)])


def _encoded(dataset: Dataset, base: BaseModel, max_length: int) -> Iterator[tuple[list[int], list[int]]]:
    file = Path(_place(base)) / "tokenizer.json"
    tokenizer: Tokenizer = PlainTokenizer(file) if file.is_file() else load_tokenizer(base)
    for row in dataset.train:
        yield encode(tokenizer, row, dataset.task, max_length, base.family)


class PlainTokenizer:
    """A tokenizer.json with its chat template, read without importing torch."""

    def __init__(self, file: Path) -> None:
        """Read `file` and its neighbours tokenizer_config.json, special_tokens_map.json, chat_template.jinja.

        Raises:
            InputError: a file is malformed.
        """
        from tokenizers import Tokenizer as Backend

        try:
            self._backend = Backend.from_str(file.read_text(encoding="utf-8"))
            settings = _json_object(file.with_name("special_tokens_map.json"))
            settings.update(_json_object(file.with_name("tokenizer_config.json")))
            template = file.with_name("chat_template.jinja")
            self.chat_template: Any = (
                template.read_text(encoding="utf-8") if template.is_file() else settings.get("chat_template")
            )
        except Exception as error:  # noqa: BLE001 (what the tokenizers library raises on a malformed file)
            raise InputError(f"{file} is no readable tokenizer: {_first_line(error)}") from None
        self._special = {
            name: token["content"] if isinstance(token, dict) else token
            for name, token in settings.items()
            if name in ("bos_token", "eos_token", "pad_token", "unk_token") and token
        }
        self._backend.no_padding()

    @property
    def eos_token(self) -> str | None:
        """Text of the end-of-sequence token."""
        return self._special.get("eos_token")

    @property
    def unk_token(self) -> str | None:
        """Text of the token of what is unknown."""
        return self._special.get("unk_token")

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]:
        """Tokenize as transformers would; knows `add_special_tokens`, `truncation` and `max_length`."""
        if options.get("truncation"):
            self._backend.enable_truncation(options["max_length"])
        else:
            self._backend.no_truncation()
        special = options.get("add_special_tokens", True)
        found = self._backend.encode(text, add_special_tokens=special)
        return {"input_ids": found.ids, "offset_mapping": found.offsets}

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Render messages as a transformers tokenizer would with `tokenize=False`."""
        from transformers.utils.chat_template_utils import render_jinja_template

        return render_jinja_template(
            [conversation],
            chat_template=self.chat_template,
            add_generation_prompt=options.get("add_generation_prompt", False),
            **self._special,
        )[0][0]


def _place(base: BaseModel) -> str:
    """Return where the tokenizer is: with the weights, else beside the configuration."""
    if base.path is not None:
        return base.path
    folder = Path(base.source).parent
    if Path(base.source).is_file() and any((folder / name).is_file() for name in _FILES):
        return str(folder)
    raise InputError(f"of {base.name!r} only the architecture is known, not the tokenizer. {_WAYS_OUT}")


def _opening(tokenizer: Tokenizer) -> list[int]:
    """Return the ids a tokenizer puts before any text: the beginning-of-sequence token or nothing."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    dressed = list(tokenizer("a")["input_ids"])
    return dressed[: dressed.index(bare[0])]


def _json_object(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"{file.name} must hold an object")
    return content


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
