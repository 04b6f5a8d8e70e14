#!/usr/bin/env python3
"""ELECTRA's pre-training step in PyTorch and Hugging Face's transformers, measured: what Inazuma is compared with.

    python tools/pytorch-step.py --preset small --batch 8 --length 128 [--device cpu|cuda] [--mode fp32] [--steps 10]

Modes: fp32 (on CUDA without TF32), tf32, bf16 (autocast), bf16-compiled (autocast and torch.compile).
The step is Inazuma's (docs/spec.md §3): logits only at masked positions, Gumbel sampling, dropout as the preset has it,
clipping by the global norm, Adam without bias correction with decoupled decay, by torch._foreach. Without --examples
sequences are random and of full length; with it (JSON lines of `inazuma bench data --examples`) they are padded to the
full length and masked, as the reference implementation does. Prints one JSON object: medians over --steps, after two
that warm up, and the peak of the process's memory (or of the device's). With --case, one object for each.

A step's batch lies on the device before its clock starts, and its loss is read after the clock has stopped; between
them nothing comes back from the device, which is waited for on both sides. (Inazuma's own figures hold the making of
its batches.) Needs transformers 5.

With --curve FILE it trains --steps steps on --examples instead, and writes each step's loss there, a JSON object a line
(tools/compare-curves). Parameters then start as Inazuma's do (docs/spec.md §2), and the rate follows --rate and
--warmup (§3).
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
from torch.nn import functional
from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

PRESETS = {
    "tiny": dict(hidden=128, layers=4, heads=4, ffn=512, embedding=64, gen_hidden=32, gen_heads=1, positions=128),
    "small": dict(hidden=256, layers=12, heads=4, ffn=1024, embedding=128, gen_hidden=64, gen_heads=1, positions=512),
    "base": dict(hidden=768, layers=12, heads=12, ffn=3072, embedding=768, gen_hidden=256, gen_heads=4, positions=512),
}
PAD, CLS, SEP, MASK = 3, 4, 5, 6


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, help="sequences at a time; by default all of the batch")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mode", choices=["fp32", "tf32", "bf16", "bf16-compiled"], default="fp32")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--examples")
    parser.add_argument("--curve", metavar="FILE")
    parser.add_argument("--rate", type=float, default=5e-4, help="of --curve: the highest learning rate")
    parser.add_argument("--warmup", type=int, default=0, help="of --curve: steps in which the rate rises")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", action="append", metavar="PRESET,BATCH,LENGTH,MODE", help="instead of those four options; several in one process, a line of output each")
    return parser.parse_args()


def sample(logits):
    """For each row a piece drawn from softmax(logits), by Gumbel noise −log E with E = −log1p(−u) (docs/spec.md §3)."""
    # `rand` may give 0, and E must be neither 0 nor infinite.
    u = torch.rand_like(logits, dtype=torch.float32).clamp_(2**-24, 1 - 2**-24)
    return (logits.float() - torch.log(-torch.log1p(-u))).argmax(-1)


class Step:
    def __init__(self, a):
        self.a, sizes = a, PRESETS[a.preset]
        self.generator = ElectraForMaskedLM(self.config(sizes, True))
        self.discriminator = ElectraForPreTraining(self.config(sizes, False))
        self.discriminator.electra.embeddings = self.generator.electra.embeddings
        self.generator.generator_lm_head.weight = self.generator.electra.embeddings.word_embeddings.weight
        self.generator.to(a.device).train()
        self.discriminator.to(a.device).train()
        unique = {id(p): (n, p) for m in (self.generator, self.discriminator) for n, p in m.named_parameters()}
        self.parameters = [p for _, p in unique.values()]
        self.decays = [0.0 if "LayerNorm" in n or "bias" in n else 0.01 for n, _ in unique.values()]
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.forward = torch.compile(self.loss) if a.mode == "bf16-compiled" else self.loss

    def config(self, sizes, generator):
        hidden = sizes["gen_hidden"] if generator else sizes["hidden"]
        return ElectraConfig(
            vocab_size=self.a.vocabulary,
            embedding_size=sizes["embedding"],
            hidden_size=hidden,
            num_hidden_layers=sizes["layers"],
            num_attention_heads=sizes["gen_heads"] if generator else sizes["heads"],
            intermediate_size=4 * hidden if generator else sizes["ffn"],
            max_position_embeddings=sizes["positions"],
            layer_norm_eps=1e-12,
            hidden_dropout_prob=self.a.dropout,
            attention_probs_dropout_prob=self.a.dropout,
            pad_token_id=PAD,
        )

    def loss(self, ids, segments, attention_mask, mask, rows, originals, denominators):
        """The loss of a micro-batch; `rows` are the masked positions as (sequence, position)."""
        inputs = dict(token_type_ids=segments, attention_mask=attention_mask)
        hidden = self.generator.electra(ids, **inputs).last_hidden_state[rows]
        logits = self.generator.generator_lm_head(self.generator.generator_predictions(hidden))
        mlm = functional.cross_entropy(logits.float(), originals, reduction="sum") / denominators[0]
        with torch.no_grad():
            sampled = sample(logits)
        corrupted = ids.clone()
        corrupted[rows] = sampled
        labels = torch.zeros_like(mask)
        labels[rows] = (sampled != originals).to(labels.dtype)
        scores = self.discriminator(corrupted, **inputs).logits.float()
        bce = functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        return mlm + 50 * (bce * mask).sum() / denominators[1]

    @torch.no_grad()
    def initialise(self):
        """Draws the parameters as Inazuma does (docs/spec.md §2); transformers draws a normal that is not cut."""
        for module in (*self.generator.modules(), *self.discriminator.modules()):
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
                torch.nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        uniform = [self.discriminator.discriminator_predictions.dense_prediction]
        for electra in (self.generator.electra, self.discriminator.electra):
            uniform += [electra.embeddings_project] if hasattr(electra, "embeddings_project") else []
        for layer in uniform:
            torch.nn.init.xavier_uniform_(layer.weight)

    def run(self, micro_batches, rate=1e-5):
        """A whole step. Its loss is left on the device: reading it would wait for the step."""
        for p in self.parameters:
            p.grad = None
        losses = []
        for batch in micro_batches:
            with torch.autocast(self.a.device, torch.bfloat16, enabled=self.a.mode.startswith("bf16")):
                loss = self.forward(**batch)
            loss.backward()
            losses.append(loss.detach())
        self.update(rate)
        return torch.stack(losses).sum()

    @torch.no_grad()
    def update(self, rate):
        gradients = [p.grad for p in self.parameters]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, torch.clamp(1 / norm, max=1.0))
        torch._foreach_lerp_(self.m, gradients, 0.1)
        torch._foreach_mul_(self.v, 0.999)
        torch._foreach_addcmul_(self.v, gradients, gradients, 0.001)
        updates = torch._foreach_sqrt(self.v)
        torch._foreach_add_(updates, 1e-6)
        updates = torch._foreach_div(self.m, updates)
        decayed = [(u, p, d) for u, p, d in zip(updates, self.parameters, self.decays) if d]
        torch._foreach_add_([u for u, _, _ in decayed], torch._foreach_mul([p for _, p, _ in decayed], 0.01))
        torch._foreach_add_(self.parameters, updates, alpha=-rate)


def random_examples(a, count, generator):
    slots = int((0.15 + 0.005) * a.length)
    for _ in range(count):
        ids = torch.randint(7, a.vocabulary, (a.length,), generator=generator)
        ids[0], ids[a.length // 2], ids[-1] = CLS, SEP, SEP
        positions = (torch.randperm(a.length - 1, generator=generator) + 1)[:slots].sort().values
        originals = ids[positions].clone()
        ids[positions[torch.rand(slots, generator=generator) < 0.85]] = MASK
        yield dict(ids=ids.tolist(), first_segment=a.length // 2 + 1, masked=list(zip(positions.tolist(), originals.tolist())))


def micro_batches(a, examples):
    """The examples of a step as tensors on the device, padded to the full length."""
    masked_total = sum(len(e["masked"]) for e in examples)
    tokens_total = sum(len(e["ids"]) for e in examples)
    full = tokens_total == a.length * len(examples)
    size = a.micro_batch or len(examples)
    batches = []
    for first in range(0, len(examples), size):
        group = examples[first : first + size]
        ids = torch.full((len(group), a.length), PAD)
        segments, mask = torch.zeros_like(ids), torch.zeros(len(group), a.length)
        rows, originals = [], []
        for b, e in enumerate(group):
            n = len(e["ids"])
            ids[b, :n] = torch.tensor(e["ids"])
            segments[b, e["first_segment"] : n] = 1
            mask[b, :n] = 1
            rows += [(b, position) for position, _ in e["masked"]]
            originals += [original for _, original in e["masked"]]
        rows = torch.tensor(rows, device=a.device).T
        attended = mask.bool()[:, None, None, :]
        batches.append(
            dict(
                ids=ids.to(a.device),
                segments=segments.to(a.device),
                # Of full sequences nothing is masked, and telling so is faster. Otherwise what transformers would
                # make of a mask of [sequences, positions], which it reads back first to see whether it is full.
                attention_mask=None if full else attended.to(a.device).expand(-1, 1, a.length, a.length),
                mask=mask.to(a.device),
                rows=(rows[0], rows[1]),
                originals=torch.tensor(originals, device=a.device),
                denominators=(masked_total + 1e-6, tokens_total + 1e-6),
            )
        )
    return batches, tokens_total


def wait_for(device):
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak_memory(device):
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def main():
    a = arguments()
    if a.threads:
        torch.set_num_threads(a.threads)
    if a.curve:
        return curve(a)
    for case in a.case or [None]:
        if case:
            preset, batch, length, mode = case.split(",")
            a.preset, a.batch, a.length, a.mode = preset, int(batch), int(length), mode
        print(json.dumps(measure(a) | (dict(case=case) if case else {})), flush=True)


def read_examples(a, total):
    with open(a.examples) as lines:
        examples = [json.loads(line) for line, _ in zip(lines, range(total))]
    if len(examples) != total:
        sys.exit(f"{a.examples} holds {len(examples)} examples, {total} are needed")
    return examples


def curve(a):
    """Trains, and writes the loss of every step."""
    torch.manual_seed(a.seed)
    examples = read_examples(a, a.steps * a.batch)
    step = Step(a)
    step.initialise()
    with open(a.curve, "w") as file:
        for done in range(a.steps):
            batches, _ = micro_batches(a, examples[done * a.batch : (done + 1) * a.batch])
            rate = a.rate * (1 - done / a.steps) * min(1, done / a.warmup if a.warmup else 1)
            file.write(json.dumps(dict(step=done + 1, loss=float(step.run(batches, rate)))) + "\n")


def measure(a):
    torch.manual_seed(a.seed)
    if a.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = a.mode == "tf32"
    generator = torch.Generator().manual_seed(2)
    total = (a.steps + 2) * a.batch
    if a.examples:
        examples = read_examples(a, total)
    else:
        examples = list(random_examples(a, total, generator))
    step = Step(a)
    seconds, tokens = [], []
    for index in range(a.steps + 2):
        batches, count = micro_batches(a, examples[index * a.batch : (index + 1) * a.batch])
        wait_for(a.device)
        since = time.perf_counter()
        loss = step.run(batches)
        wait_for(a.device)
        taken = time.perf_counter() - since
        loss = float(loss)
        if not math.isfinite(loss):
            sys.exit(f"the loss of step {index + 1} is {loss}: not a step worth timing")
        if index >= 2:
            seconds.append(taken)
            tokens.append(count)
    middle, mean = statistics.median(seconds), sum(tokens) / len(tokens)
    return dict(
        tokens_per_second=mean / middle,
        positions_per_second=a.batch * a.length / middle,
        step_ms=1e3 * middle,
        step_ms_best=1e3 * min(seconds),
        peak_memory_bytes=peak_memory(a.device),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
        mode=a.mode,
        loss=loss,
    )


if __name__ == "__main__":
    main()
