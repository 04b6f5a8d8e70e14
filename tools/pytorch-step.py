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

With --curve FILE it trains --steps steps on --examples instead, and writes each step's losses there, a JSON object a line
(tools/compare-curves): `loss`, `mlm_loss`, `disc_loss`, the discriminator's `disc_auc` and the standard
deviation of its logits, `disc_spread`. Parameters then start as Inazuma's do (docs/spec.md §2), and the rate follows
--rate, --warmup and --power (§3). With --probe N every Nth step also has what may announce a collapse: the norms of the
gradients by part (`norms`: tables, generator, discriminator below, above), and of the discriminator's last vectors the
share of their square that differs from token to token (`variance`). With --init FILE the parameters are those of a
checkpoint's model.safetensors instead, so that the two differ by what they sample alone (needs safetensors).
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
    parser.add_argument("--power", type=float, default=1, help="of --curve: the rate falls as (1 - step / steps) to this power")
    parser.add_argument("--probe", type=int, default=0, metavar="N")
    parser.add_argument("--init", metavar="FILE", help="of --curve: model.safetensors of a checkpoint of Inazuma")
    parser.add_argument("--width", type=int, help="of the discriminator, with heads of 64; the generator has a quarter of it")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--beta2", type=float, default=0.999)
    parser.add_argument("--bias-correction", action="store_true", help="of Adam's moments; the reference has none")
    parser.add_argument("--clip", choices=["global", "part"], default="global", help="by the norm of all gradients, or of each part's")
    parser.add_argument("--disc-warmup", type=int, default=0, help="steps in which the discriminator's weight rises")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", action="append", metavar="PRESET,BATCH,LENGTH,MODE", help="instead of those four options; several in one process, a line of output each")
    return parser.parse_args()


def sample(logits):
    """For each row a piece drawn from softmax(logits), by Gumbel noise −log E with E = −log1p(−u) (docs/spec.md §3)."""
    # `rand` may give 0, and E must be neither 0 nor infinite.
    u = torch.rand_like(logits, dtype=torch.float32).clamp_(2**-24, 1 - 2**-24)
    return (logits.float() - torch.log(-torch.log1p(-u))).argmax(-1)


def auc(scores, labels):
    """How often a replaced token's logit lies above an original's; ties count one half."""
    replaced, original = scores[labels > 0].sort().values, scores[labels == 0]
    if not len(replaced) or not len(original):
        return 0.0
    below = torch.searchsorted(replaced, original, right=True) + torch.searchsorted(replaced, original)
    return 1 - float(below.double().mean()) / (2 * len(replaced))


class Step:
    def __init__(self, a):
        self.a, sizes, self.done = a, dict(PRESETS[a.preset]), 0
        if a.width:
            sizes |= dict(hidden=a.width, heads=max(1, a.width // 64), ffn=4 * a.width)
            sizes |= dict(gen_hidden=a.width // 4, gen_heads=max(1, a.width // 256))
        if a.layers:
            sizes |= dict(layers=a.layers)
        self.generator = ElectraForMaskedLM(self.config(sizes, True))
        self.discriminator = ElectraForPreTraining(self.config(sizes, False))
        self.discriminator.electra.embeddings = self.generator.electra.embeddings
        self.generator.generator_lm_head.weight = self.generator.electra.embeddings.word_embeddings.weight
        self.generator.to(a.device).train()
        self.discriminator.to(a.device).train()
        unique = {id(p): (n, p) for m in (self.generator, self.discriminator) for n, p in m.named_parameters()}
        self.parameters = [p for _, p in unique.values()]
        self.names = [n for n, _ in unique.values()]
        self.parts = self.divide(unique, sizes["layers"])
        self.decays = [0.0 if "LayerNorm" in n or "bias" in n else 0.01 for n, _ in unique.values()]
        self.m = [torch.zeros_like(p) for p in self.parameters]
        self.v = [torch.zeros_like(p) for p in self.parameters]
        self.forward = torch.compile(self.loss) if a.mode == "bf16-compiled" else self.loss

    def divide(self, unique, layers):
        """Indices of the parameters by part: what both share, the generator, and two halves of the discriminator."""
        generator = {id(p) for p in self.generator.parameters()}
        shared = {id(p) for p in self.generator.electra.embeddings.parameters()}
        parts = dict(tables=[], generator=[], below=[], above=[])
        for index, (name, p) in enumerate(unique.values()):
            layer = next((int(word) for word in name.split(".") if word.isdigit()), None)
            below = "embeddings_project" in name if layer is None else 2 * layer < layers
            own = "below" if below else "above"
            parts["tables" if id(p) in shared else "generator" if id(p) in generator else own].append(index)
        return parts

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
        encoded = self.discriminator.electra(corrupted, **inputs).last_hidden_state
        scores = self.discriminator.discriminator_predictions(encoded).float()
        bce = functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
        disc = (bce * mask).sum() / denominators[1]
        if self.a.curve:
            seen = mask.bool()
            self.seen.append((mlm.detach(), disc.detach(), scores.detach()[seen], labels[seen], encoded.detach()[seen]))
        return mlm + self.disc_weight() * disc

    def disc_weight(self):
        return 50 * min(1, self.done / self.a.disc_warmup if self.a.disc_warmup else 1)

    def quality(self):
        """Of the step just made: both losses, AUC and spread of the logits."""
        mlm, disc = (float(sum(part[i] for part in self.seen)) for i in (0, 1))
        scores, labels = (torch.cat([part[i] for part in self.seen]) for i in (2, 3))
        return dict(
            mlm_loss=mlm, disc_loss=disc, disc_auc=auc(scores, labels), disc_spread=float(scores.std(correction=0))
        )

    def probe(self):
        gradients = [p.grad for p in self.parameters]
        norms = {part: float(torch.stack(torch._foreach_norm([gradients[i] for i in own])).norm()) for part, own in self.parts.items()}
        encoded = torch.cat([part[4] for part in self.seen]).double()
        differs = (encoded - encoded.mean(0)).square().sum() / encoded.square().sum()
        return dict(norms=norms, variance=float(differs))

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

    @torch.no_grad()
    def load(self, path):
        """Takes the parameters of a checkpoint of Inazuma, whose names are transformers' behind the network's."""
        from safetensors.torch import load_file

        tensors, tables = load_file(path), "discriminator."
        for root, model in (("generator.", self.generator), ("discriminator.", self.discriminator)):
            for name, parameter in model.named_parameters():
                # What both networks share lies there once.
                tensor = tensors.get(root + name, tensors.get(tables + name))
                if tensor is None:
                    sys.exit(f"{path} lacks {root}{name}")
                # There may be fewer positions.
                parameter[: len(tensor)] = tensor

    def run(self, micro_batches, rate=1e-5):
        """A whole step. Its loss is left on the device: reading it would wait for the step."""
        for p in self.parameters:
            p.grad = None
        losses, self.seen = [], []
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
        together = [range(len(gradients))] if self.a.clip == "global" else self.parts.values()
        for part in together:
            own = [gradients[i] for i in part]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(own)))
            torch._foreach_mul_(own, torch.clamp(1 / norm, max=1.0))
        beta2 = self.a.beta2
        torch._foreach_lerp_(self.m, gradients, 0.1)
        torch._foreach_mul_(self.v, beta2)
        torch._foreach_addcmul_(self.v, gradients, gradients, 1 - beta2)
        updates = torch._foreach_sqrt(self.v)
        self.done += 1
        m = self.m
        if self.a.bias_correction:
            torch._foreach_div_(updates, math.sqrt(1 - beta2**self.done))
            m = torch._foreach_div(m, 1 - 0.9**self.done)
        torch._foreach_add_(updates, 1e-6)
        updates = torch._foreach_div(m, updates)
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
    if a.init:
        step.load(a.init)
    with open(a.curve, "w") as file:
        for done in range(a.steps):
            batches, _ = micro_batches(a, examples[done * a.batch : (done + 1) * a.batch])
            rate = a.rate * (1 - done / a.steps) ** a.power * min(1, done / a.warmup if a.warmup else 1)
            line = dict(step=done + 1, loss=float(step.run(batches, rate))) | step.quality()
            if a.probe and (done + 1) % a.probe == 0:
                line |= step.probe()
            print(json.dumps(line), file=file, flush=True)


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
