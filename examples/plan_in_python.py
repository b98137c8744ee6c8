"""Ask what one configuration takes, and what fits: no weights, no GPU, no network.

Run it: python examples/plan_in_python.py
"""

from __future__ import annotations

import autopeft as ap


def main() -> None:
    """Estimate one configuration and plan a small space for the same card."""
    candidate = ap.Candidate(method="lora", rank=16, targets="attention")
    verdict = ap.estimate("all-MiniLM-L6-v2", candidate, gpu="t4", seq_len=128)
    if isinstance(verdict, ap.Fits):
        memory = verdict.estimate.memory
        print(f"peak {memory.device_peak_bytes / 2**20:.0f} MiB on the device")
        print(f"90 % band {memory.low_bytes / 2**20:.0f} to {memory.high_bytes / 2**20:.0f} MiB")
    try:
        ap.estimate("all-MiniLM-L6-v2", ap.Candidate(method="lorra"), gpu="t4")
    except ap.AutopeftError as error:
        print(error)


if __name__ == "__main__":
    main()
