#!/usr/bin/env python3
"""A golden pre-training step, computed by PyTorch and Hugging Face's ELECTRA, for `inazuma parity` (docs/spec.md §3;
docs/cli.md says what such a file holds).

    pip install torch transformers safetensors numpy
    python tools/pretraining-goldens.py OUT.safetensors [--layers 12] [--length 512] [--hidden 64] [--heads 4] …
    python tools/pretraining-goldens.py OUT.safetensors --models DISCRIMINATOR GENERATOR

kernels-tests/goldens/README.md gives the command of the golden there. The same versions on the same machine write the
same bytes. It shares no code with the program. Everything is computed in float64 and stored rounded to float32. Weights are drawn
as pre-training draws them (normal, σ 0.02 unless said, cut at 2σ), biases and layer norms are moved off their starting values so
that each matters, the moments are not zero, and sequences have every awkward length from 3 tokens up to the longest.
"""

import argparse
import json

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

STEP = dict(lr=5e-4, total_steps=1000, warmup=50, wd=0.01, b1=0.9, b2=0.999, eps=1e-6, clip=1.0, power=1.0)
OPT_STEP = 17
SHARED = "electra.embeddings."
MASK, CLS, SEP, FIRST_ID = 6, 4, 5, 7


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    sizes = dict(layers=12, hidden=64, heads=4, ffn=128, embedding=32, vocab=211, length=512, batch=4)
    sizes.update(gen_hidden=16, gen_layers=12, gen_heads=1, gen_ffn=64, seed=1)
    for name, value in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--models", nargs=2, help="Hugging Face directories: their weights instead of drawn ones")
    parser.add_argument("--deviation", type=float, default=0.02, help="of weights; narrow networks need more to attend")
    return parser.parse_args()


def load(a):
    """The models of two directories; their sizes take the place of the arguments'."""
    discriminator = ElectraForPreTraining.from_pretrained(a.models[0], attn_implementation="eager")
    generator = ElectraForMaskedLM.from_pretrained(a.models[1], attn_implementation="eager")
    own, other = discriminator.config, generator.config
    a.layers, a.hidden, a.heads, a.ffn = own.num_hidden_layers, own.hidden_size, own.num_attention_heads, own.intermediate_size
    a.gen_layers, a.gen_hidden, a.gen_heads = other.num_hidden_layers, other.hidden_size, other.num_attention_heads
    a.gen_ffn, a.embedding, a.vocab = other.intermediate_size, own.embedding_size, own.vocab_size
    a.length = own.max_position_embeddings
    for module in [*discriminator.modules(), *generator.modules()]:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return generator, discriminator


def config(a, generator):
    pick = lambda name, value: getattr(a, f"gen_{name}") if generator else value
    return ElectraConfig(
        vocab_size=a.vocab,
        embedding_size=a.embedding,
        hidden_size=pick("hidden", a.hidden),
        num_hidden_layers=pick("layers", a.layers),
        num_attention_heads=pick("heads", a.heads),
        intermediate_size=pick("ffn", a.ffn),
        max_position_embeddings=a.length,
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        # A padding id would freeze its row of the table: row 0 trains like any other (docs/spec.md §3).
        pad_token_id=None,
        attn_implementation="eager",
    )


def draw(shape, name, deviation, random):
    value = random.standard_normal(shape)
    if name.endswith("LayerNorm.weight"):
        return 1 + 0.05 * value
    if name.endswith("bias"):
        return 0.05 * value
    while (far := np.abs(value) > 2).any():
        value[far] = random.standard_normal(int(far.sum()))
    return deviation * value


def make_batch(a, random):
    slots = int((0.15 + 0.005) * a.length)
    ids = np.zeros((a.batch, a.length), np.int64)
    segments, mask, original = ids.copy(), ids.copy(), ids.copy()
    positions, masked, sampled = (np.zeros((a.batch, slots), np.int64) for _ in range(3))
    weights = np.zeros((a.batch, slots), np.float32)
    for b in range(a.batch):
        # The longest, one without candidates but one token, and odd lengths between.
        length = a.length if b == 0 else 3 if b == 1 else int(random.integers(4, a.length + 1)) | 1
        length = min(length, a.length)
        row = random.integers(FIRST_ID, a.vocab, length)
        row[0] = CLS
        row[-1] = SEP
        if length > 8:
            middle = int(random.integers(2, length - 2))
            row[middle] = SEP
            segments[b, middle + 1 : length] = 1
        mask[b, :length] = 1
        original[b, :length] = row
        ids[b, :length] = row
        candidates = np.flatnonzero(row >= FIRST_ID)
        count = min(max(1, int(np.rint(0.15 * length))), slots, len(candidates))
        for slot, place in enumerate(random.permutation(candidates)[:count]):
            positions[b, slot], masked[b, slot], weights[b, slot] = place, row[place], 1
            # A third of the samples hit the original.
            sampled[b, slot] = row[place] if random.random() < 1 / 3 else random.integers(0, a.vocab)
            if random.random() < 0.85:
                ids[b, place] = MASK
    batch = dict(input_ids=ids, input_mask=mask, segment_ids=segments, masked_positions=positions, masked_ids=masked)
    batch.update(weights=weights, sampled_ids=sampled)
    return {name: torch.from_numpy(x) for name, x in batch.items()}, torch.from_numpy(original)


def backward(a, generator, discriminator, batch, original, dtype):
    """Runs both networks forward and backward in `dtype`; what the step gives, but for the update."""
    generator.to(dtype).zero_grad()
    discriminator.to(dtype).zero_grad()
    shared = dict(attention_mask=batch["input_mask"], token_type_ids=batch["segment_ids"])
    logits = generator(batch["input_ids"], **shared).logits
    rows = torch.arange(a.batch)[:, None]
    gen_logits = logits[rows, batch["masked_positions"]]
    weights = batch["weights"].to(dtype)
    nll = functional.cross_entropy(gen_logits.flatten(0, 1), batch["masked_ids"].flatten(), reduction="none")
    mlm = (weights.flatten() * nll).sum() / (weights.sum() + 1e-6)

    disc_ids = original.clone()
    used = batch["weights"] > 0
    places = rows.expand_as(batch["masked_positions"])[used], batch["masked_positions"][used]
    disc_ids[places] = batch["sampled_ids"][used]
    labels = (disc_ids != original).long()
    disc_logits = discriminator(disc_ids, **shared).logits
    mask = batch["input_mask"].to(dtype)
    bce = functional.binary_cross_entropy_with_logits(disc_logits, labels.to(dtype), reduction="none")
    disc = (mask * bce).sum() / (mask.sum() + 1e-6)
    total = mlm + 50 * disc
    total.backward()
    out = dict(total=total, mlm=mlm, disc=disc, gen_logits=gen_logits, disc_logits=disc_logits, disc_ids=disc_ids)
    out.update(labels=labels, orig_ids=original, sampled_ids=batch["sampled_ids"].clone())
    return {name: x.detach() for name, x in out.items()}


def sort_metadata(path):
    """safetensors writes the metadata's keys in random order; sorted, the same numbers are the same bytes."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header, data = json.loads(file.read(size)), file.read()
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + data)


def main():
    a = arguments()
    random = np.random.Generator(np.random.PCG64(a.seed))
    if a.models:
        generator, discriminator = load(a)
    else:
        generator, discriminator = ElectraForMaskedLM(config(a, True)), ElectraForPreTraining(config(a, False))
        assert a.embedding not in (a.hidden, a.gen_hidden), "give an embedding size of its own, so that it is projected"
    discriminator.electra.embeddings = generator.electra.embeddings
    generator.generator_lm_head.weight = generator.electra.embeddings.word_embeddings.weight
    generator.double().train()
    discriminator.double().train()

    named = {f"discriminator.{n}": p for n, p in discriminator.named_parameters()}
    for n, p in generator.named_parameters():
        if not n.startswith(SHARED) and n != "generator_lm_head.weight":
            named[f"generator.{n}"] = p
    state = {}
    for name, p in named.items():
        shape = tuple(p.shape)
        drawn = draw(shape, name, a.deviation, random)
        drawn = p.detach().numpy() if a.models else drawn
        values = drawn, 1e-3 * random.standard_normal(shape), 1e-6 * random.standard_normal(shape) ** 2
        state[name] = [torch.from_numpy(np.asarray(x, np.float32)) for x in values]
        p.data = state[name][0].double()

    batch, original = make_batch(a, random)
    networks = a, generator, discriminator, batch, original
    backward(*networks, torch.float32)
    single = {name: p.grad.double() for name, p in named.items()}
    out = backward(*networks, torch.float64)
    for name, p in named.items():
        # The parameters are float32 numbers, so the way through float32 and back has not changed them.
        assert torch.equal(p.data, state[name][0].double())
    worst = max(
        (float((single[n] - p.grad).abs().max() / p.grad.abs().max()), n) for n, p in named.items() if "key.bias" not in n
    )

    norm = torch.sqrt(sum((p.grad**2).sum() for p in named.values()))
    factor = STEP["clip"] / max(float(norm), STEP["clip"])
    lr = STEP["lr"] * (1 - OPT_STEP / STEP["total_steps"]) ** STEP["power"] * min(1, OPT_STEP / STEP["warmup"])
    out.update(grad_norm=norm, lr=torch.tensor(lr))
    tensors = {f"batch.{n}": x for n, x in batch.items()} | {f"out.{n}": x for n, x in out.items()}
    for name, p in named.items():
        value, m, v = (x.double() for x in state[name])
        g = p.grad * factor
        m = STEP["b1"] * m + (1 - STEP["b1"]) * g
        v = STEP["b2"] * v + (1 - STEP["b2"]) * g * g
        update = m / (torch.sqrt(v) + STEP["eps"])
        if "LayerNorm" not in name and "bias" not in name:
            update = update + STEP["wd"] * value
        if name.endswith("key.bias"):
            assert float(p.grad.abs().max()) < 1e-12, name
        results = [p.grad, value - lr * update, m, v]
        tensors.update({f"{kind}.{name}": x for kind, x in zip(["grad", "newparam", "newm", "newv"], results)})
        tensors.update({f"{kind}.{name}": x for kind, x in zip(["param", "m", "v"], state[name])})
    sizes = dict(vocab_size=a.vocab, embedding_size=a.embedding, hidden_size=a.hidden, num_layers=a.layers)
    sizes.update(num_heads=a.heads, ffn=a.ffn, gen_hidden=a.gen_hidden, gen_layers=a.gen_layers, gen_heads=a.gen_heads)
    sizes.update(gen_ffn=a.gen_ffn, max_positions=a.length, type_vocab=2, mask_prob=0.15, max_seq_length=a.length)
    sizes.update(gen_weight=1.0, disc_weight=50.0, mask_id=MASK, cls_id=CLS, sep_id=SEP)
    save_file(
        {n: (x.float() if x.dtype == torch.float64 else x).contiguous() for n, x in tensors.items()},
        a.out,
        metadata=dict(cfg=json.dumps(sizes), opt=json.dumps(STEP), opt_step=str(OPT_STEP)),
    )
    sort_metadata(a.out)
    print(f"{a.out}: total {float(out['total']):.6f}, norm {float(norm):.4f}; PyTorch in float32: {worst[0]:.1e}, {worst[1]}")


if __name__ == "__main__":
    main()
