"""What trials of a process share changes nothing: each is, to the bit, what it would be alone."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import pytest
import torch

from autopeft.space.candidate import Candidate, Training
from autopeft.train.pristine import Pristine
from autopeft.train.stock import MOST_BASES, Stock, load_backbone
from autopeft.train.trainer import Trainer, TrainerFactory
from autopeft.workload.base_model import BaseModel

TRAINING = Training(learning_rate=1e-2, batch_size=8, epochs=1, max_length=16)
HALF = TRAINING.model_copy(update={"precision": "bf16"})

KINDS = {
    "adapter": Candidate(method="lora", targets="all-linear", training=TRAINING),
    "all weights": Candidate(method="full", training=TRAINING),
    "biases": Candidate(method="bitfit", training=TRAINING),
    "norms": Candidate(method="ln_tuning", training=TRAINING),
    "head": Candidate(method="probe", training=TRAINING),
    "prompt": Candidate(method="prompt_tuning", training=TRAINING),
    "moved base": Candidate(method="pissa", rank=4, targets="all-linear", training=TRAINING),
    "start from data": Candidate(method="lora-ga", rank=4, targets="all-linear", training=TRAINING),
    "masks": Candidate(method="fish", training=TRAINING),
    "checkpointing": Candidate(
        method="lora", training=TRAINING.model_copy(update={"gradient_checkpointing": True})
    ),
    "dropout": Candidate(method="lora", training=TRAINING.model_copy(update={"dropout": 0.2})),
    "half precision": Candidate(method="lora", training=HALF),
    "all weights in half precision": Candidate(method="full", training=HALF),
    "nf4": Candidate(method="lora", quantization="nf4", targets="all-linear", training=TRAINING),
    "nf4 again, by DoRA": Candidate(method="dora", quantization="nf4", training=TRAINING),
    "int8": Candidate(method="lora", quantization="int8", training=TRAINING),
    "adapter at the end": Candidate(method="lora", targets="all-linear", training=TRAINING),
}


@pytest.fixture(scope="module")
def factory(encoder_with_weights, sentiment) -> TrainerFactory:
    """One worker's factory, which has made the runs of all tests before."""
    pytest.importorskip("bitsandbytes", reason="packed bases need the extra quant")
    return TrainerFactory(base=encoder_with_weights, dataset=sentiment)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_is_to_the_bit_what_it_is_with_a_freshly_loaded_base(
    kind, factory, encoder_with_weights, sentiment
) -> None:
    candidate = KINDS[kind]
    alone = _outcome(Trainer(encoder_with_weights, sentiment, candidate, seed=3))
    assert _outcome(factory(candidate, 3)) == alone


def test_another_seed_draws_another_head(factory, encoder_with_weights, sentiment) -> None:
    candidate = KINDS["head"]
    for seed in (3, 4, 3):
        alone = Trainer(encoder_with_weights, sentiment, candidate, seed=seed)
        assert _outcome(factory(candidate, seed)) == _outcome(alone)


def test_what_a_trial_writes_into_its_base_reaches_no_other(encoder_with_weights, sentiment) -> None:
    stock = Stock(encoder_with_weights, sentiment)
    torch.manual_seed(0)
    first = stock.backbone(KINDS["adapter"])
    before = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    file = Path(encoder_with_weights.path) / "model.safetensors"
    stored = file.read_bytes()
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.zero_()
    torch.manual_seed(0)
    second = stock.backbone(KINDS["adapter"]).state_dict()
    assert all(torch.equal(second[name], tensor) for name, tensor in before.items())
    assert file.read_bytes() == stored


def test_rows_are_made_ready_once_for_each_length_limit(encoder_with_weights, sentiment) -> None:
    stock = Stock(encoder_with_weights, sentiment)
    rows = stock.feed(TRAINING).rows("train")
    assert (
        stock.feed(TRAINING.model_copy(update={"learning_rate": 1e-4, "batch_size": 2})).rows("train") is rows
    )
    short = stock.feed(TRAINING.model_copy(update={"max_length": 4})).rows("train")
    assert max(len(row.ids) for row in short) == 4 < max(len(row.ids) for row in rows)


def test_a_base_in_memory_is_let_go_before_a_method_that_writes_to_all_of_it(
    encoder_with_weights, sentiment
) -> None:
    stock = Stock(encoder_with_weights, sentiment)
    descriptors = _open_files()
    stock.backbone(KINDS["half precision"])
    assert _open_files() == descriptors + 1
    stock.backbone(KINDS["all weights in half precision"])
    assert _open_files() == descriptors


def test_few_bases_are_kept(encoder_with_weights, sentiment) -> None:
    stock = Stock(encoder_with_weights, sentiment)
    descriptors = _open_files()
    for seed in range(MOST_BASES + 3):
        torch.manual_seed(seed)
        stock.backbone(KINDS["adapter"])
    assert _open_files() <= descriptors + MOST_BASES


def test_a_factory_travels_without_what_it_keeps(factory) -> None:
    factory(KINDS["adapter"], 0)
    assert len(pickle.dumps(factory)) < 100_000


def test_copies_take_no_second_set_of_weights(tmp_path, sentiment) -> None:
    base, weights = _wide_model(tmp_path)
    for training, in_memory in ((TRAINING, 0), (HALF, weights // 2)):
        pristine = Pristine(load_backbone(base, sentiment, Candidate(method="lora", training=training)))
        assert abs(pristine.bytes_in_memory - in_memory) < 0.01 * weights
        before = _anonymous_bytes()
        first, second = pristine.copy(), pristine.copy()
        for each in (*first.parameters(), *second.parameters()):
            each.detach().view(torch.uint8).max()
        assert _anonymous_bytes() - before < 0.2 * weights


def test_a_checkpoint_is_mapped_by_the_copies_alone(tmp_path, sentiment) -> None:
    base, _ = _wide_model(tmp_path)
    before = _checkpoints_mapped()
    pristine = Pristine(load_backbone(base, sentiment, Candidate(method="lora", training=TRAINING)))
    assert _checkpoints_mapped() == before
    copy = pristine.copy()
    assert _checkpoints_mapped() == before + 1
    assert all(parameter.isfinite().all() for parameter in copy.parameters())


def test_weights_that_share_memory_are_not_kept(encoder_with_weights, sentiment) -> None:
    model = load_backbone(encoder_with_weights, sentiment, KINDS["adapter"])
    shared = torch.zeros(4000)
    model.register_buffer("one", shared[:2000])
    model.register_buffer("other", shared[1000:3000])
    with pytest.raises(TypeError, match="share memory"):
        Pristine(model)


def test_a_model_that_cannot_be_copied_is_loaded_for_each_trial(
    encoder_with_weights, sentiment, monkeypatch
) -> None:
    stock = Stock(encoder_with_weights, sentiment)
    monkeypatch.setattr(torch.nn.Module, "__deepcopy__", _refuse, raising=False)
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(stock.backbone(KINDS["adapter"]).state_dict())
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def _wide_model(place: Path) -> tuple[BaseModel, int]:
    """Save a random model of 11 M parameters; return it and its bytes."""
    import transformers

    fields = {"hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = {"model_type": "bert", "intermediate_size": 512, "vocab_size": 40_000, **fields}
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(**config))
    weights = sum(each.nbytes for each in model.parameters())
    model.save_pretrained(place)
    base = BaseModel(name="wide", family="encoder", source="made", config=config, path=str(place))
    return base, weights


def _refuse(module: torch.nn.Module, memo: object) -> torch.nn.Module:
    raise TypeError("this module has no copy")


def _outcome(run: Trainer) -> tuple[object, ...]:
    report = run.advance(10**9)
    trained = {name: p.detach() for name, p in run.model.named_parameters() if p.requires_grad}
    return (
        report.score,
        report.loss,
        tuple((name, value.float().numpy().tobytes()) for name, value in trained.items()),
    )


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _anonymous_bytes() -> int:
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no RssAnon in /proc/self/status")


def _checkpoints_mapped() -> int:
    gc.collect()
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return sum(line.endswith(".safetensors") for line in maps)
