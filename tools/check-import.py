#!/usr/bin/env python3
"""Imports Hugging Face directories and compares with what transformers makes of them.

    PYTHON_WITH_TORCH tools/check-import.py INAZUMA DISCRIMINATOR GENERATOR

1. The imported parameters are those that transformers loads, bit by bit.
2. The same weights saved by torch.save (`pytorch_model.bin`, in both its formats) are imported to the same bytes.
3. A training step from these weights is PyTorch's, within the tolerances of `inazuma parity`.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def imported(inazuma, discriminator, generator, out):
    special = "PAD=3,CLS=4,SEP=5,MASK=6"
    run(inazuma, "import", discriminator, "--generator", generator, "--special", special, "--out", out)
    return out / (out / "latest").read_text().strip() / "model.safetensors"


def as_pickle(source, target, zipped):
    """The directory with `pytorch_model.bin` instead of `model.safetensors`."""
    target.mkdir()
    shutil.copy(source / "config.json", target)
    state = load_file(source / "model.safetensors")
    torch.save(state, target / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    return target


def main():
    inazuma, discriminator, generator = sys.argv[1], *map(pathlib.Path, sys.argv[2:4])
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        first = imported(inazuma, discriminator, generator, folder / "imported")
        for name, zipped in [("archive", True), ("legacy", False)]:
            sources = [as_pickle(d, folder / f"{name}-{n}", zipped) for n, d in enumerate([discriminator, generator])]
            other = imported(inazuma, *sources, folder / name)
            assert other.read_bytes() == first.read_bytes(), f"pytorch_model.bin ({name}) is imported otherwise"
        golden = folder / "golden.safetensors"
        print(run(sys.executable, HERE / "pretraining-goldens.py", golden, "--models", discriminator, generator), end="")
        ours, theirs = load_file(first), load_file(golden)
        theirs = {name[6:]: value for name, value in theirs.items() if name.startswith("param.")}
        assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), name
        report = json.loads(run(inazuma, "parity", golden, "--device", "cpu", "--json"))
        print(f"{len(ours)} tensors equal, in safetensors, archive and older pickle; parity: {json.dumps(report)}")


if __name__ == "__main__":
    main()
