"""Write synthesised vowels as WAV files in class folders, and a small Whisper to adapt to them.

    python examples/speech/make_data.py          about half a minute; writes vowels/ and tiny-whisper/ here

A vowel is a pulse train through resonances at the first two formants of American speakers (Peterson and
Barney 1952), of random pitch and length, with noise. The model first learns five vowels from random weights;
what is written for autopeft are five others, which it has never heard.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from scipy.io import wavfile
from scipy.signal import lfilter
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForAudioClassification

RATE = 16_000
# First and second formant in hertz, men's means (Peterson and Barney 1952, table II).
HEARD = {"heed": (270, 2290), "had": (660, 1720), "hod": (730, 1090), "hood": (440, 1020), "hud": (640, 1190)}
NEW = {"hid": (390, 1990), "head": (530, 1840), "hawed": (570, 840), "whod": (300, 870), "heard": (490, 1350)}
COUNT, EPOCHS, BATCH = 80, 12, 32
POSITIONS, BANDS = 50, 40


def main(folder: Path) -> None:
    """Write `folder`/vowels and `folder`/tiny-whisper."""
    dice = random.Random(0)
    for word, formants in NEW.items():
        (folder / "vowels" / word).mkdir(parents=True, exist_ok=True)
        for number in range(COUNT):
            wavfile.write(folder / "vowels" / word / f"{number}.wav", RATE, vowel(formants, dice))
    seconds = 2 * POSITIONS * 160 // RATE
    extractor = WhisperFeatureExtractor(feature_size=BANDS, chunk_length=seconds)
    extractor.n_samples, extractor.nb_max_frames = 2 * POSITIONS * 160, 2 * POSITIONS
    sounds = [vowel(formants, dice) / 32768 for formants in HEARD.values() for _ in range(COUNT)]
    features = extractor(sounds, sampling_rate=RATE, return_tensors="pt")["input_features"]
    model = pretrained(features, torch.arange(len(HEARD)).repeat_interleave(COUNT))
    model.save_pretrained(folder / "tiny-whisper")
    extractor.save_pretrained(folder / "tiny-whisper")


def vowel(formants: tuple[int, int], dice: random.Random) -> np.ndarray:
    """Make a vowel of 0.4 to 0.6 seconds as 16-bit samples."""
    samples = round(RATE * dice.uniform(0.4, 0.6))
    sound = np.zeros(samples)
    sound[:: round(RATE / dice.uniform(90, 180))] = 1.0
    for formant, width in zip(formants, (60, 90), strict=True):
        spread = np.exp(-np.pi * width / RATE)
        turn = 2 * np.pi * formant * dice.uniform(0.95, 1.05) / RATE
        sound = lfilter([1.0], [1.0, -2 * spread * np.cos(turn), spread**2], sound)
    noise = np.random.default_rng(dice.getrandbits(32)).standard_normal(samples)
    sound = sound / np.abs(sound).max() + 0.05 * noise
    return (sound * 16_000).clip(-32_768, 32_767).astype(np.int16)


def pretrained(features: torch.Tensor, vowels: torch.Tensor) -> WhisperForAudioClassification:
    """Train a small Whisper encoder on spectrograms (rows, bands, frames) and their vowels (rows,)."""
    torch.manual_seed(0)
    config = WhisperConfig(
        num_mel_bins=BANDS,
        max_source_positions=POSITIONS,
        d_model=64,
        encoder_layers=3,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        vocab_size=16,
        max_target_positions=448,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        num_labels=len(HEARD),
    )
    model = WhisperForAudioClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(features)).split(BATCH):
            loss = model(input_features=features[rows], labels=vowels[rows]).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    print(f"the loss on five vowels after {EPOCHS} epochs is {loss.item():.3f}; by chance it is 1.61")
    return model


if __name__ == "__main__":
    main(Path(__file__).parent)
