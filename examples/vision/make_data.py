"""Write handwritten digits as images in class folders, and a small vision transformer to adapt to them.

    python examples/vision/make_data.py          about half a minute; writes digits/ and tiny-vit/ here

The images are those of scikit-learn (`load_digits`, 1,797 of 8 x 8 pixels). The model first learns the digits
0 to 4 from random weights; what is written for autopeft is the other half, 5 to 9, which it has never seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIDE, EPOCHS, ROWS = 16, 30, 64
HALF = [0.5, 0.5, 0.5]


def main(folder: Path) -> None:
    """Write `folder`/digits and `folder`/tiny-vit."""
    digits = load_digits()
    images = [Image.fromarray((pixels * 15.9).astype(np.uint8)).convert("RGB") for pixels in digits.images]
    seen = digits.target < 5
    for number, (image, digit) in enumerate(zip(images, digits.target, strict=True)):
        if digit >= 5:
            place = folder / "digits" / str(digit)
            place.mkdir(parents=True, exist_ok=True)
            image.resize((SIDE, SIDE)).save(place / f"{number}.png")
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, image_mean=HALF, image_std=HALF)
    known = [image for image, is_seen in zip(images, seen, strict=True) if is_seen]
    pixels = processor(known, return_tensors="pt")["pixel_values"]
    model = pretrained(pixels, torch.from_numpy(digits.target[seen]))
    model.vit.save_pretrained(folder / "tiny-vit")
    processor.save_pretrained(folder / "tiny-vit")


def pretrained(pixels: torch.Tensor, digits: torch.Tensor) -> ViTForImageClassification:
    """Train a small ViT on images (rows, 3, side, side) and their digits (rows,)."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=SIDE,
        patch_size=4,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=5,
    )
    model = ViTForImageClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(EPOCHS):
        order = torch.randperm(len(pixels))
        for rows in order.split(ROWS):
            loss = model(pixel_values=pixels[rows], labels=digits[rows]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    print(f"the loss on the digits 0 to 4 after {EPOCHS} epochs is {loss.item():.3f}; by chance it is 1.61")
    return model


if __name__ == "__main__":
    main(Path(__file__).parent)
