#!/usr/bin/env python3
"""Makes the inputs of the targets of src/fuzzing.rs in fuzz/corpus: small files of every format that is read.

    PYTHON_WITH_SENTENCEPIECE tools/fuzz-corpus.py [INAZUMA]

INAZUMA, the binary, makes the stores; without it those that are there stay.
"""

import io
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import sentencepiece

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fuzz" / "corpus"


def put(target, name, content):
    folder = ROOT / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def texts():
    put("configuration", "whole", 'steps = 12\nlearning_rate = 5e-4\nprecision = "f16"\nmicro_batch = "auto"\n'
        "warmup_steps = 1_000\n\n[model]\nhidden_size = 64\nheads = 2\nlayers = 3\n")
    put("configuration", "generator", "seed = 3\nmax_length = 64\nmask_probability = 0.2\n"
        "[model]\ngenerator_hidden_size = 16\ngenerator_fraction = 0.25\ngenerator_heads = 1\n")
    put("configuration", "wrong", "steps = -1\nmodel = 3\nbatch_size = [1]\nx.y = 1979-05-27\n")
    put("set", "some", "steps=1_000\nlearning_rate=1e-4\nmodel.layers=6\nmicro_batch=auto\nprecision=\"f32\"\nseed=18446744073709551615")
    put("set", "wrong", "steps\n=\nsteps=\nlearning_rat=1\nbatch_size=1e18\nclip_norm=nan\nadam_beta1=-inf\nmodel.heads=0x10")
    put("hparams", "object", json.dumps({
        "model_size": "small", "train_batch_size": 128, "learning_rate": 5e-4, "max_seq_length": 128,
        "model_hparam_overrides": {"hidden_size": 64, "num_hidden_layers": 2}, "generator_layers": 0.5,
        "mask_prob": 0.15, "disc_weight": 50.0, "task_names": ["squad"], "num_train_epochs": 2.0}))
    put("hparams", "pretraining", "A=1 python3 run_pretraining.py --data-dir $D --model-name m \\\n"
        "  --hparams '{\"model_size\": \"base\", \"debug\": true, \"vocab_size\": 32000}'")
    put("hparams", "finetuning", "python3 run_finetuning.py --data-dir=D --model-name=\"m\" --hparams "
        "'{\"task_names\": [\"sts\"], \"joint_prediction\": false, \"model_size\": \"large\"}'")


def records():
    put("records", "state", json.dumps({
        "step": 3, "tokens": 900, "seed": 1, "tokenizer": "ab", "lower": True, "device": "cpu",
        "store": {"crc": "0", "documents": 1, "lines": 2, "tokens": 3},
        "loss_scaling": {"scale": 65536, "steps": 1, "skipped": 0}}))
    put("records", "vocabulary", '{"vocab_size":97,"special":{"PAD":0,"CLS":2,"SEP":3,"MASK":4}}')
    sizes = {"vocab_size": 97, "embedding_size": 16, "hidden_size": 16, "intermediate_size": 64,
             "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    put("records", "huggingface", json.dumps({"model_type": "electra", "hidden_act": "gelu", **sizes}))
    put("records", "model", "[model]\nvocab_size = 97\nembedding_size = 16\nhidden_size = 16\nlayers = 2\nheads = 2\n"
        "ffn_size = 64\nmax_positions = 64\ngenerator_hidden_size = 8\ngenerator_layers = 2\ngenerator_heads = 1\n"
        "generator_ffn_size = 32\n")
    for task, settings in {
        "squad": {"span_head": "joint", "answerability": True, "doc_stride": 16, "max_query_length": 16,
                  "max_answer_length": 8, "n_best": 5},
        "tag": {"labels": ["O", "B-x", "I-x"]}, "regress": {"range": [0.0, 5.0]},
        "classify": {"labels": ["a", "b"]}, "multiple-choice": {"choices": 3},
    }.items():
        rest = {"span_head": "plain", "answerability": False, "doc_stride": 16, "max_query_length": 16,
                "max_answer_length": 8, "n_best": 5, "labels": [], "choices": 2, "range": None}
        put("records", task, json.dumps({"task": task, "lower": True, "max_length": 64, **rest, **settings}))
    put("records", "tuning", json.dumps({"device": "x", "strategies": {"matmul": "tiled"}}))


def tensors():
    def file(entries, metadata=None):
        header, data = {}, b""
        for name, kind, shape, raw in entries:
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
            data += raw
        if metadata:
            header["__metadata__"] = metadata
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text + data
    put("safetensors", "kinds", file([
        ("a", "F32", [2, 2], struct.pack("<4f", 1, 2, 3, 4)), ("b", "F16", [2], b"\0\x3c\0\x40"),
        ("c", "BF16", [1, 1], b"\x80\x3f"), ("d", "I64", [1], struct.pack("<q", 7)), ("e", "BOOL", [3], b"\1\0\1"),
        ("f", "F64", [], struct.pack("<d", .5)), ("g", "F32", [0, 4], b"")]))
    sizes = dict(vocab_size=97, embedding_size=16, hidden_size=16, num_layers=2, num_heads=2, ffn=64, gen_hidden=8,
                 gen_layers=2, gen_heads=1, gen_ffn=32, max_positions=64, type_vocab=2, gen_weight=1.0, disc_weight=50.0)
    update = dict(lr=1e-3, total_steps=10, warmup=1, wd=.01, b1=.9, b2=.999, eps=1e-6, clip=1.0, power=1.0)
    put("safetensors", "golden", file(
        [("in.ids", "I32", [1, 3], struct.pack("<3i", 1, 2, 3)), ("out.loss", "F64", [1], struct.pack("<d", 2))],
        {"cfg": json.dumps(sizes), "opt": json.dumps(update), "opt_step": "3"}))


def data():
    squad = {"data": [{"title": "川", "paragraphs": [{"context": "千代川は砂を運ぶ。", "qas": [
        {"id": "1", "question": "何を運ぶか。", "answers": [{"text": "砂", "answer_start": 4}]},
        {"id": 2, "question": "誰か。", "is_impossible": True, "answers": []},
        {"question": "x", "answers": [{"text": "川", "answer_start": -5}, {"text": "", "answer_start": None}]}]}]}]}
    put("data", "squad", "\0" + json.dumps(squad, ensure_ascii=False))
    rows = [{"sentence_pair_id": 1, "sentence1": "山", "sentence2": "川", "label": "neutral", "yjcaptions_id": "x"},
            {"sentence_pair_id": "2", "sentence1": "春", "sentence2": "", "label": 3.5}]
    put("data", "pairs", "\1" + "\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    put("data", "array", "\0" + json.dumps(rows))
    put("data", "choices", "\1" + json.dumps({"q_id": 3, "question": "何", "choice0": "a", "choice1": "b", "choice2": "c",
                                              "choice3": "d", "choice4": "e", "label": 4}, ensure_ascii=False))
    put("data", "table", "\2id\ttext\tlabel\n1\t山\ta\n2\t\"川 \"\"x\"\"\"\tb\n")
    put("data", "jsick", "\2pair_ID\tsentence_A_Ja\tsentence_B_Ja\trelatedness_score_Ja\tentailment_label_Ja\tdata\n"
        "1\t山\t川\t4.5\tneutral\ttrain\n2\t春\t秋\t1\tcontradiction\ttrial\n")
    put("data", "entities", "\0" + json.dumps([{"curid": "1", "text": "東京の山", "entities": [
        {"name": "東京", "span": [0, 2], "type": "地名"}, {"name": "山", "span": [3, 9], "type": "x"}]}],
        ensure_ascii=False))
    put("lines", "texts", "\n".join(json.dumps(line, ensure_ascii=False) for line in [
        {"question": "何", "context": "山", "id": 1}, {"text": "川"}, {"text1": "a", "text2": "b", "id": None},
        {"question": "何", "choices": ["a", "b"]}, {"question": "何", "choice0": "a", "choice1": "b"}]))
    put("lines", "wrong", '{"text":3}\n[1]\n{}\n{"question":null,"choices":[1,{}]}\n\n{"text1":"a"}')
    put("ready_made", "documents", '{"ids":[[17,5],[],[9]]}\n{"ids":[[96]],"title":"x"}\n{"ids":[]}')
    put("ready_made", "wrong", '{"ids":[[97]]}\n{"ids":[[-1]]}\n{"ids":[[2]]}\n{"ids":5}\n{"ids":[[1e3]]}\n')


def record(lists):
    def field(number, raw):
        return bytes([number << 3 | 2, len(raw)]) + raw
    features = b"".join(
        field(1, field(1, name.encode()) + field(2, field(3, field(1, bytes(values)))))
        for name, values in lists.items())
    body = field(1, features)
    return struct.pack("<Q", len(body)) + bytes(4) + body + bytes(4)


def tf_records():
    ids = [2, 10, 11, 3, 12, 3, 0, 0]
    two = {"input_ids": ids, "input_mask": [1] * 6 + [0] * 2, "segment_ids": [0] * 4 + [1] * 2 + [0] * 2}
    put("tf_record", "two_segments", record(two))
    one = {"input_ids": [2, 10, 3], "input_mask": [1] * 3, "segment_ids": [0] * 3}
    put("tf_record", "one_and_two", record(one) + record(two))
    put("tf_record", "second_at_once", record({**one, "segment_ids": [1] * 3}) + record({**one, "input_mask": [0] * 3}))


def models():
    text = ["山川 草木。", "花鳥 風月", "春夏秋冬。", "東西 南北", "abc ABC ｶﾞ ㍿"] * 20
    rules = "\n".join(["FF76 FF9E\t30AC", "337F\t682A 5F0F", "41\t61", "42\t62", "43 44\t63"]) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rules.tsv"
        path.write_text(rules)
        for name, options in {
            "unigram": dict(model_type="unigram", normalization_rule_name="identity"),
            "bpe": dict(model_type="bpe", normalization_rule_tsv=str(path)),
            "char": dict(model_type="char", normalization_rule_name="identity", user_defined_symbols=["a", "ab", "abc"]),
            "bytes": dict(model_type="unigram", normalization_rule_tsv=str(path), byte_fallback=True, vocab_size=310),
        }.items():
            model = io.BytesIO()
            options = {"vocab_size": 42, "hard_vocab_limit": False, "minloglevel": 2, **options}
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(text), model_writer=model, control_symbols=["[PAD]", "[CLS]", "[SEP]", "[MASK]"],
                **options)
            put("sentencepiece", name, model.getvalue())


def stores(inazuma):
    documents = [{"ids": [[10, 11, 12], [13]]}, {"ids": [[20] * 40, [21, 22], [23] * 9]}, {"ids": [[96]]}]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "ids.jsonl").write_text("\n".join(map(json.dumps, documents)))
        for name, size in {"narrow": 97, "wide": 70_000}.items():
            command = [inazuma, "prepare", "--ids", folder / "ids.jsonl", "--vocab-size", size,
                       "--special", "PAD=0,CLS=2,SEP=3,MASK=4", "--out", folder / name]
            subprocess.run([str(word) for word in command], check=True)
            put("store", name, (folder / name).read_bytes())
        # And one that marks words, of text.
        (folder / "text").write_text("ab ba c\n山川。ab\n\nb ca\n")
        command = [inazuma, "prepare", folder / "text", "--tokenizer", ROOT / "sentencepiece" / "unigram",
                   "--out", folder / "words"]
        subprocess.run([str(word) for word in command], check=True)
        put("store", "words", (folder / "words").read_bytes())


if __name__ == "__main__":
    for make in [texts, records, tensors, data, tf_records, models]:
        make()
    if len(sys.argv) > 1:
        stores(sys.argv[1])
