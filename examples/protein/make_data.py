"""Write protein sequences with a label that a rule decides, and a small ESM to adapt to them.

    python examples/protein/make_data.py         about half a minute; writes proteins.csv and tiny-esm/ here

The sequences are made up: amino acids drawn with the frequencies of UniProtKB/Swiss-Prot. Half of them begin
like the signal peptides of secreted proteins (von Heijne 1985: a positive start, a hydrophobic core, small
residues before the cut); the other half have the same core later in the sequence, where it means nothing. The
model starts from random weights and first learns to fill in masked amino acids of other such sequences,
without labels.
"""

from __future__ import annotations

import csv
import random
from pathlib import Path

import torch
from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer

# Percent of each amino acid in Swiss-Prot (release notes of 2024).
SHARES = {
    "A": 8.3,
    "R": 5.5,
    "N": 4.1,
    "D": 5.5,
    "C": 1.4,
    "Q": 3.9,
    "E": 6.7,
    "G": 7.1,
    "H": 2.3,
    "I": 5.9,
    "L": 9.6,
    "K": 5.8,
    "M": 2.4,
    "F": 3.9,
    "P": 4.7,
    "S": 6.6,
    "T": 5.4,
    "W": 1.1,
    "Y": 2.9,
    "V": 6.9,
}
SPECIAL = ["<cls>", "<pad>", "<eos>", "<unk>"]
ROWS, STEPS, BATCH = 1000, 150, 32


def main(folder: Path) -> None:
    """Write `folder`/proteins.csv and `folder`/tiny-esm."""
    dice = random.Random(0)
    with (folder / "proteins.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sequence", "label"])
        writer.writerows([protein(dice, secreted=index % 2 == 0), PLACES[index % 2]] for index in range(ROWS))
    place = folder / "tiny-esm"
    place.mkdir(exist_ok=True)
    (place / "vocab.txt").write_text("\n".join([*SPECIAL, *SHARES, "<mask>"]), encoding="utf-8")
    tokenizer = EsmTokenizer(str(place / "vocab.txt"))
    model = pretrained(tokenizer, dice)
    model.esm.save_pretrained(place)
    tokenizer.save_pretrained(place)


PLACES = ("secreted", "cytosolic")


def protein(dice: random.Random, *, secreted: bool) -> str:
    """Make a sequence of 26 to 47 amino acids."""
    core = [dice.choice("KR"), *dice.choices("LAVIF", k=dice.randint(9, 12)), dice.choice("AGS"), "Q", "A"]
    rest = dice.choices(list(SHARES), weights=list(SHARES.values()), k=dice.randint(12, 30))
    at = 0 if secreted else dice.randint(10, len(rest))
    return "".join(["M", *rest[:at], *core, *rest[at:]])


def pretrained(tokenizer: EsmTokenizer, dice: random.Random) -> EsmForMaskedLM:
    """Train a small ESM to fill in the 15 % of amino acids that are masked."""
    torch.manual_seed(0)
    config = EsmConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=66,
        position_embedding_type="rotary",
        token_dropout=False,
    )
    model = EsmForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        texts = [protein(dice, secreted=bool(index % 2)) for index in range(BATCH)]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        hidden = (torch.rand(ids.shape) < 0.15) & (ids >= len(SPECIAL))
        labels = ids.masked_fill(~hidden, -100)
        masked = ids.masked_fill(hidden, tokenizer.mask_token_id)
        loss = model(input_ids=masked, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"the loss of a masked amino acid after {STEPS} steps is {loss.item():.2f}; by chance it is 3.00")
    return model


if __name__ == "__main__":
    main(Path(__file__).parent)
