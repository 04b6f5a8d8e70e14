#!/usr/bin/env python3
"""Makes fuzz/corpus/torch and fuzz/corpus/tensorflow_index: small files of the formats that `import` reads.

    PYTHON_WITH_TORCH tools/reader-corpus.py

torch's own `save` writes the first; the tables of TensorFlow's index are written here, byte by byte, as
tensorflow/core/lib/io/table_format has them (plain, and packed by snappy's literals and copies).
"""

import pathlib
import struct
from collections import OrderedDict

import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fuzz" / "corpus"


def torch_files(folder):
    table = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    state = OrderedDict(a=table, b=table.half(), c=table.t())
    torch.save(state, folder / "archive.bin")
    torch.save(state, folder / "legacy.bin", _use_new_zipfile_serialization=False)
    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0]]))
        module.bias.zero_()
    torch.save(module.state_dict(), folder / "module.bin", _use_new_zipfile_serialization=False)
    torch.save({"p": torch.nn.Parameter(table[:1].bfloat16())}, folder / "parameter.bin")
    torch.save({"n": torch.tensor([7])}, folder / "integer.bin", _use_new_zipfile_serialization=False)
    # Refused: a whole module would be made by running its class's code.
    torch.save({"f": torch.nn.functional.gelu}, folder / "function.bin", _use_new_zipfile_serialization=False)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def block(entries):
    """Entries with the prefixes they share with the one before; a single restart."""
    out, last = bytearray(), b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return bytes(out) + struct.pack("<II", 0, 1)


def snappy(data):
    """Literals of up to 60 bytes, and a copy where the last four bytes come again."""
    out, at = bytearray(varint(len(data))), 0
    while at < len(data):
        before = data.find(data[at : at + 4], 0, at) if at + 4 <= len(data) else -1
        if before >= 0 and before + 4 <= at:
            out += bytes([3 << 2 | 2]) + struct.pack("<H", at - before)
            at += 4
            continue
        length = 1
        while length < 60 and at + length < len(data):
            here = data[at + length : at + length + 4]
            if len(here) == 4 and 0 <= data.find(here, 0, at + length) <= at + length - 4:
                break
            length += 1
        out += bytes([(length - 1) << 2]) + data[at : at + length]
        at += length
    return bytes(out)


def table(blocks, packed):
    out, handles = bytearray(), []

    def write(contents):
        kind = b"\x01" if packed else b"\x00"
        contents = snappy(contents) if packed else contents
        handle = varint(len(out)) + varint(len(contents))
        out.extend(contents + kind + struct.pack("<I", masked(contents + kind)))
        return handle

    for entries in blocks:
        handles.append((entries[-1][0] + b"\xff", write(block(entries))))
    meta, index = write(block([])), write(block(handles))
    footer = (meta + index).ljust(40, b"\x00")
    return bytes(out) + footer + struct.pack("<Q", 0xDB4775248B80FB57)


def field(number, kind, payload):
    head = varint(number << 3 | kind)
    return head + (varint(len(payload)) + payload if kind == 2 else payload)


def variable(dtype, shape, offset, size, crc=0):
    dimensions = b"".join(field(2, 2, field(1, 0, varint(n))) for n in shape)
    return (
        field(1, 0, varint(dtype))
        + field(2, 2, dimensions)
        + field(4, 0, varint(offset))
        + field(5, 0, varint(size))
        + field(6, 5, struct.pack("<I", crc))
    )


def tensorflow_files(folder):
    header = (b"", field(1, 0, varint(1)) + field(3, 2, field(1, 0, varint(1))))
    first = [
        header,
        (b"electra/embeddings/LayerNorm/beta", variable(1, [2], 0, 8)),
        (b"electra/embeddings/LayerNorm/beta/adam_m", variable(1, [2], 8, 8)),
    ]
    second = [
        (b"electra/embeddings/LayerNorm/gamma", variable(19, [2], 16, 4)),
        (b"global_step", variable(9, [], 20, 8)),
        (b"graph", variable(7, [], 28, 3)),
    ]
    for name, packed in [("plain", False), ("snappy", True)]:
        (folder / f"{name}.index").write_bytes(table([first, second], packed))
    # Refused: values that overlap, in parts, of another size than their shape.
    (folder / "overlap.index").write_bytes(
        table([[header, (b"a", variable(1, [2], 0, 8)), (b"b", variable(1, [2], 4, 8))]], False)
    )
    parts = variable(1, [2], 0, 8) + field(7, 2, b"")
    (folder / "parts.index").write_bytes(table([[header, (b"a", parts)]], False))
    (folder / "size.index").write_bytes(table([[header, (b"a", variable(1, [1 << 40, 1 << 40], 0, 8))]], False))


for name, make in [("torch", torch_files), ("tensorflow_index", tensorflow_files)]:
    (ROOT / name).mkdir(parents=True, exist_ok=True)
    make(ROOT / name)
