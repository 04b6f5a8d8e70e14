#!/usr/bin/env python3
"""Inazuma's CPU executor beside PyTorch on the same machine: whole steps, alternated, medians and their ratio.

    python tools/compare-pytorch.py [--binary target/release/inazuma] [--rounds 3] [--store STORE] [--only NAME]

The Python that runs it must have torch and transformers (tools/pytorch-step.py). Every round runs each program in a
process of its own, one after the other. Full-length batches of `small` at 8×128 and 4×512 and of `tiny` at 16×128;
with --store also real examples, packed here and padded there.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TOOLS = Path(__file__).parent
CASES = {
    "small-8x128": dict(preset="small", batch=8, length=128, steps=6),
    "small-4x512": dict(preset="small", batch=4, length=512, steps=3),
    "tiny-16x128": dict(preset="tiny", batch=16, length=128, steps=15),
}
REAL = {
    "small-8x128-real": dict(preset="small", batch=8, length=128, steps=6),
    "small-4x512-real": dict(preset="small", batch=4, length=512, steps=3),
    "tiny-16x128-real": dict(preset="tiny", batch=16, length=128, steps=15),
}


def output_of(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stderr}")
    return done.stdout


def settings(case):
    sets = dict(batch_size=case["batch"], micro_batch=case["batch"], max_length=case["length"])
    flags = ["--preset", case["preset"]]
    for key, value in sets.items():
        flags += ["--set", f"{key}={value}"]
    return flags


def compare(name, case, a, folder):
    ours = [a.binary, "bench", "step", *settings(case), "--device", "cpu", "--steps", str(case["steps"]), "--json"]
    theirs = [sys.executable, TOOLS / "pytorch-step.py", "--preset", case["preset"], "--batch", str(case["batch"])]
    theirs += ["--length", str(case["length"]), "--steps", str(case["steps"])]
    if name in REAL:
        examples = folder / f"{name}.jsonl"
        data = [a.binary, "bench", "data", *settings(case), "--store", a.store, "--steps", str(case["steps"] + 2)]
        output_of([*data, "--examples", examples])
        ours += ["--store", a.store]
        theirs += ["--examples", examples, "--vocabulary", str(a.vocabulary)]
    results = [], []
    for _ in range(a.rounds):
        for result, command in zip(results, (ours, theirs)):
            result.append(json.loads(output_of([str(part) for part in command])))
    key = "tokens_per_second" if name in REAL else "positions_per_second"
    rates = [statistics.median(r[key] for r in result) for result in results]
    memory = [max(r["peak_memory_bytes"] for r in result) / 1e6 for result in results]
    unit = "real tokens/s" if name in REAL else "positions/s"
    print(
        f"| {name} | {rates[0]:.0f} | {rates[1]:.0f} | **{rates[0] / rates[1]:.2f}** | {memory[0]:.0f} | {memory[1]:.0f} | {unit} |",
        flush=True,
    )


def main():
    target = Path(os.environ.get("CARGO_TARGET_DIR", TOOLS.parent / "target"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=target / "release/inazuma")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store")
    parser.add_argument("--vocabulary", type=int, default=8000, help="pieces of the store's tokenizer")
    parser.add_argument("--only")
    a = parser.parse_args()
    print("| batch | Inazuma | PyTorch | ratio | Inazuma MB | PyTorch MB | |\n|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, case in (CASES | (REAL if a.store else {})).items():
            if a.only is None or a.only in name:
                compare(name, case, a, Path(folder))


if __name__ == "__main__":
    main()
