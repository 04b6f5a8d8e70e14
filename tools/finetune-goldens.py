#!/usr/bin/env python3
"""Golden steps of the fine-tuning heads, computed by PyTorch and Hugging Face's ELECTRA (docs/spec.md §3.7, §3.8, §5).

    python tools/finetune-goldens.py [kernels-tests/goldens]

Writes `finetune-<head>.safetensors` for every head. It shares no code with the program: the plain heads are
Hugging Face's own, the joint ones and the optimiser are written here from the specification. Everything is computed
in float64 and stored rounded to float32; a second pass in float32 must agree as closely as float32 can.

What a file holds, B sequences (multiple choice: 3 for each item) padded to S tokens:
  param.* m.* v.*       before the step, under Inazuma's names; a moment of one element stands for all of its tensor
  batch.*               input_ids, segment_ids, allowed [B, S]; lengths [B]; and the labels of the head
  out.loss, .grad_norm  scalars; out.*logits: as the head gives them, padding included (it means nothing)
  grad.* newparam.*     gradients before clipping, and the parameters afterwards
The metadata `golden` is JSON: head, classes, sizes, and the constants of the step.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional
from transformers import (
    ElectraConfig,
    ElectraForMultipleChoice,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraModel,
)

SIZES = dict(vocab_size=61, embedding_size=12, hidden_size=24, layers=2, heads=2, ffn_size=40, max_positions=24)
STEP = dict(learning_rate=1e-3, layer_decay=0.8, clip_norm=1.0, beta1=0.9, beta2=0.999, epsilon=1e-6, decay=0.01)
PAD, CLS, SEP, FIRST_ID = 0, 2, 3, 5
LENGTHS = [5, 9, 17, 22, 24]
# Of multiple choice: each item holds three of its own.
CHOICE_LENGTHS = [5, 24, 8, 13, 9, 17, 22, 21, 6, 7, 15, 24, 19, 11, 10]
WIDTH = 24
JOINT_SIZE = 512
CLASSES = {"classes": 4, "value": 1, "choice": 3, "tags": 5}
HEADS = ["span", "joint", "joint-answerability", "classes", "value", "choice", "tags"]


def electra_config(**more):
    return ElectraConfig(
        vocab_size=SIZES["vocab_size"],
        embedding_size=SIZES["embedding_size"],
        hidden_size=SIZES["hidden_size"],
        num_hidden_layers=SIZES["layers"],
        num_attention_heads=SIZES["heads"],
        intermediate_size=SIZES["ffn_size"],
        max_position_embeddings=SIZES["max_positions"],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout=0.0,
        summary_last_dropout=0.0,
        pad_token_id=PAD,
        attn_implementation="eager",
        **more,
    )


class Perceptron(nn.Module):
    """dense → GELU → dense, to one number."""

    def __init__(self, inputs):
        super().__init__()
        self.dense = nn.Linear(inputs, JOINT_SIZE)
        self.out_proj = nn.Linear(JOINT_SIZE, 1)

    def forward(self, x):
        return self.out_proj(functional.gelu(self.dense(x))).squeeze(-1)


class Joint(nn.Module):
    """The joint span head of docs/spec.md §5 on Hugging Face's encoder."""

    def __init__(self, answerability):
        super().__init__()
        self.electra = ElectraModel(electra_config())
        self.joint_start = nn.Linear(SIZES["hidden_size"], 1)
        self.joint_end = Perceptron(2 * SIZES["hidden_size"])
        self.answerability = Perceptron(2 * SIZES["hidden_size"]) if answerability else None

    def forward(self, batch, starts):
        hidden = encode(self.electra, batch)
        start_logits = self.joint_start(hidden).squeeze(-1)
        rows = torch.arange(hidden.shape[0])
        start_hidden = hidden[rows, starts].unsqueeze(1).expand_as(hidden)
        out = {"logits": start_logits, "end_logits": self.joint_end(torch.cat([start_hidden, hidden], -1))}
        if self.answerability is not None:
            p = torch.softmax(restricted(start_logits, batch), -1)
            pooled = torch.einsum("bs,bsh->bh", p, hidden)
            out["impossible_logits"] = self.answerability(torch.cat([hidden[:, 0], pooled], -1))
        return out


def inputs_of(batch):
    mask = torch.arange(WIDTH)[None] < batch["lengths"][:, None]
    return dict(input_ids=batch["input_ids"], token_type_ids=batch["segment_ids"], attention_mask=mask.long())


def encode(electra, batch):
    return electra(**inputs_of(batch)).last_hidden_state


def restricted(logits, batch):
    """Only context tokens and [CLS] may win."""
    return torch.where(batch["allowed"].bool(), logits, torch.full_like(logits, -1000.0))


def make_model(head):
    config = lambda labels: electra_config(num_labels=labels)
    match head:
        case "span":
            return ElectraForQuestionAnswering(config(2))
        case "joint" | "joint-answerability":
            return Joint(head != "joint")
        case "classes" | "value":
            return ElectraForSequenceClassification(config(CLASSES[head]))
        case "choice":
            return ElectraForMultipleChoice(electra_config())
        case "tags":
            return ElectraForTokenClassification(config(CLASSES[head]))


def forward(head, model, batch):
    """Loss and named logits."""
    if head == "span":
        given = model(**inputs_of(batch))
        logits = torch.stack([given.start_logits, given.end_logits], -1)
        losses = [
            functional.cross_entropy(restricted(logits[..., column], batch), batch["starts"][:, column])
            for column in range(2)
        ]
        return sum(losses) / 2, {"logits": logits}
    if head.startswith("joint"):
        out = model(batch, batch["starts"])
        losses = [
            functional.cross_entropy(restricted(logits, batch), target, reduction="none")
            for logits, target in [(out["logits"], batch["starts"]), (out["end_logits"], batch["ends"])]
        ]
        loss = sum(losses) / 2
        if "impossible_logits" in out:
            label = batch["impossible"].to(loss.dtype)
            logits = out["impossible_logits"]
            loss = loss + 0.5 * functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
        with torch.no_grad():
            out["other_end_logits"] = model(batch, batch["other_starts"])["end_logits"]
        return loss.mean(), out
    inputs = inputs_of(batch)
    labels = batch["labels"] if head != "value" else batch["numbers"].to(next(model.parameters()).dtype)
    if head == "choice":
        inputs = {name: x.view(-1, CLASSES[head], WIDTH) for name, x in inputs.items()}
    given = model(**inputs, labels=labels)
    return given.loss, {"logits": given.logits.flatten() if head == "choice" else given.logits}


def make_batch(head, random):
    lengths = CHOICE_LENGTHS if head == "choice" else LENGTHS
    count = len(lengths)
    batch = {name: np.zeros((count, WIDTH), np.int64) for name in ["input_ids", "segment_ids", "allowed"]}
    batch["lengths"] = np.array(lengths)
    contexts = []
    for b, length in enumerate(lengths):
        question = int(random.integers(1, max(2, length // 3)))
        ids = random.integers(FIRST_ID, SIZES["vocab_size"], length)
        ids[0], ids[1 + question], ids[length - 1] = CLS, SEP, SEP
        batch["input_ids"][b, :length] = ids
        batch["segment_ids"][b, 2 + question : length] = 1
        contexts.append((2 + question, length - 1))
        batch["allowed"][b, 0] = 1
        batch["allowed"][b, 2 + question : length - 1] = 1
    if head == "span" or head.startswith("joint"):
        # Two windows without the answer, and spans that are not the first or last there could be.
        spans = [(first, first + int(random.integers(0, end - first))) for first, end in contexts]
        spans[2] = (contexts[2][0] + 2, contexts[2][0] + 2)
        spans[1] = spans[3] = (0, 0)
        starts, ends = (np.array(x) for x in zip(*spans))
        if head == "span":
            batch["starts"] = np.stack([starts, ends], -1)
        else:
            batch.update(starts=starts, ends=ends, impossible=(starts == 0).astype(np.int64))
            batch["other_starts"] = np.array([end - 1 for _, end in contexts])
            batch["other_starts"][4] = 0
    elif head == "tags":
        labels = random.integers(0, CLASSES[head], (count, WIDTH))
        unlabelled = random.random((count, WIDTH)) < 0.3
        special = (batch["input_ids"] == CLS) | (batch["input_ids"] == SEP) | (batch["input_ids"] == PAD)
        batch["labels"] = np.where(unlabelled | special, -100, labels)
    elif head == "value":
        batch["numbers"] = random.random(count).astype(np.float32)
    else:
        items = count // 3 if head == "choice" else count
        batch["labels"] = random.integers(0, CLASSES[head], items)
    return {name: torch.from_numpy(x) for name, x in batch.items()}


def has_zero_gradient(head, name):
    """Whether a gradient is zero but for rounding: a softmax is the same when all its arguments move alike."""
    last = f"discriminator.electra.encoder.layer.{SIZES['layers'] - 1}.output.LayerNorm.bias"
    shifts = {
        "span": ["qa_outputs.bias", last],
        "joint": ["joint_start.bias", "joint_end.out_proj.bias"],
        "joint-answerability": ["joint_start.bias", "joint_end.out_proj.bias"],
        "choice": ["classifier.bias"],
    }
    return name.endswith("key.bias") or name in shifts.get(head, [])


def our_name(name):
    return f"discriminator.{name}" if name.startswith("electra.") else name


def rate_factor(name):
    """Layer-wise decay: head 1, layer k of L decay^(L−k), embeddings and embeddings_project decay^(L+1)."""
    if not name.startswith("electra."):
        return 1.0
    layers = SIZES["layers"]
    depth = layers + 1
    if name.startswith("electra.encoder.layer."):
        depth = layers - int(name.split(".")[3])
    else:
        assert name.startswith(("electra.embeddings.", "electra.embeddings_project.")), name
    return STEP["layer_decay"] ** depth


def draw_parameters(model, random):
    """Float32 parameters and moments, by name."""
    state = {}
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        # Dense weights are large enough that attention prefers something and that first tokens differ.
        deviation = 0.3 if name.endswith(("query.weight", "key.weight")) else 0.1
        if len(shape) == 2 and deviation == 0.1 and "embeddings." not in name and parameter.numel() <= 8192:
            deviation = 0.2
        value = deviation * random.standard_normal(shape)
        if name.endswith("LayerNorm.weight"):
            value += 1.0
        # The wide layers' moments are constants, to keep the files small.
        moments = (1,) if parameter.numel() > 8192 else shape
        m = 1e-3 * random.standard_normal(moments)
        v = random.uniform(1e-6, 1e-5, moments)
        state[name] = tuple(torch.from_numpy(np.asarray(x, np.float32)) for x in (value, m, v))
    return state


def step(head, model, state, batch, dtype):
    """One step in `dtype`: every result by name."""
    model.to(dtype).train()
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.grad = None
        parameter.data = state[name][0].to(dtype)
    loss, out = forward(head, model, batch)
    loss.backward()
    result = {f"out.{name}": x.detach() for name, x in out.items()}
    gradients = {name: p.grad for name, p in parameters.items()}
    norm = torch.sqrt(sum((g * g).sum() for g in gradients.values()))
    result.update({"out.loss": loss.detach(), "out.grad_norm": norm})
    factor = STEP["clip_norm"] / max(float(norm), STEP["clip_norm"])
    for name, parameter in parameters.items():
        value, m, v = (x.to(dtype) for x in state[name])
        g = gradients[name] * factor
        m = STEP["beta1"] * m + (1 - STEP["beta1"]) * g
        v = STEP["beta2"] * v + (1 - STEP["beta2"]) * g * g
        update = m / (torch.sqrt(v) + STEP["epsilon"])
        if "LayerNorm" not in name and "bias" not in name:
            update = update + STEP["decay"] * value
        result[f"grad.{our_name(name)}"] = gradients[name]
        result[f"newparam.{our_name(name)}"] = value - STEP["learning_rate"] * rate_factor(name) * update
    return result


def golden(head, seed):
    random = np.random.Generator(np.random.PCG64(seed))
    model = make_model(head)
    state = draw_parameters(model, random)
    batch = make_batch(head, random)
    exact = step(head, model, state, batch, torch.float64)
    single = step(head, model, state, batch, torch.float32)
    worst = 0.0
    for name, x in exact.items():
        difference = float((single[name].double() - x).abs().max())
        if name.startswith("grad.") and has_zero_gradient(head, name.removeprefix("grad.")):
            assert float(x.abs().max()) < 1e-15, name
        else:
            worst = max(worst, difference / max(float(x.abs().max()), 1e-12))
    assert worst < 1e-5, f"{head}: float32 is off by {worst:e}"
    tensors = {name: x.float() for name, x in exact.items()}
    for name, values in state.items():
        tensors.update({f"{kind}.{our_name(name)}": x for kind, x in zip(["param", "m", "v"], values)})
    integers = {f"batch.{name}": x for name, x in batch.items()}
    tensors.update({n: x.to(torch.int32) if x.dtype == torch.int64 else x for n, x in integers.items()})
    metadata = dict(head=head, classes=CLASSES.get(head, 0), sizes=SIZES, step=STEP)
    data = save(
        {name: x.contiguous() for name, x in sorted(tensors.items())},
        metadata={"golden": json.dumps(metadata, sort_keys=True)},
    )
    loss, norm = float(exact["out.loss"]), float(exact["out.grad_norm"])
    print(f"{head}: {len(data)} bytes, loss {loss:.6f}, norm {norm:.4f}, float32 off by {worst:.1e}")
    return data


def main():
    torch.set_num_threads(1)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "kernels-tests/goldens")
    folder.mkdir(parents=True, exist_ok=True)
    for index, head in enumerate(HEADS):
        (folder / f"finetune-{head}.safetensors").write_bytes(golden(head, 20_240_300 + index))


if __name__ == "__main__":
    main()
