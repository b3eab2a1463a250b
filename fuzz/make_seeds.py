"""Makes the seeds of the fuzz targets that a person thought of; those that a fuzzer found are beside
them, named `found-...`. Run it in this folder: `python3 make_seeds.py`. It needs nothing but Python.

Running it again writes the same bytes, so that what changes in the seeds is what was changed here.

Each target has one small file that is read without complaint, from which a fuzzer starts, and files
that are meant to do harm, one idea each.
"""

import base64
import io
import json
import struct
import zipfile
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"
SEPARATOR = b"\n--- next file ---\n"
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}{% endfor %}"


def seed(target: str, name: str, *files: bytes | str) -> None:
    raw = [file.encode() if isinstance(file, str) else file for file in files]
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(SEPARATOR.join(raw))


# ---- GGUF

U32, F32, STRING, ARRAY, U64, I32, BOOL = 4, 6, 8, 9, 10, 5, 7


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content) -> bytes:
    form = {U32: "<I", F32: "<f", U64: "<Q", I32: "<i", BOOL: "<?"}
    return text(content) if kind == STRING else struct.pack(form[kind], content)


def pair(key: str, kind: int, content) -> bytes:
    if isinstance(content, list):
        items = b"".join(value(kind, item) for item in content)
        return text(key) + struct.pack("<IIQ", ARRAY, kind, len(content)) + items
    return text(key) + struct.pack("<I", kind) + value(kind, content)


SHAPES = {
    "token_embd.weight": (6, 4),
    "output_norm.weight": (4,),
    "blk.0.attn_norm.weight": (4,),
    "blk.0.attn_q.weight": (4, 4),
    "blk.0.attn_k.weight": (4, 4),
    "blk.0.attn_v.weight": (4, 4),
    "blk.0.attn_output.weight": (4, 4),
    "blk.0.ffn_norm.weight": (4,),
    "blk.0.ffn_gate.weight": (4, 4),
    "blk.0.ffn_up.weight": (4, 4),
    "blk.0.ffn_down.weight": (4, 4),
}

PIECES = ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581a", "b"]


def config(**changes) -> dict:
    fields = {
        "general.architecture": (STRING, "llama"),
        "llama.block_count": (U32, 1),
        "llama.context_length": (U32, 64),
        "llama.embedding_length": (U32, 4),
        "llama.feed_forward_length": (U32, 4),
        "llama.attention.head_count": (U32, 1),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.tokens": (STRING, PIECES),
        "tokenizer.ggml.scores": (F32, [0.0, 0.0, 0.0, 0.0, -1.0, -2.0]),
        "tokenizer.ggml.token_type": (I32, [2, 3, 3, 6, 1, 1]),
        "tokenizer.chat_template": (STRING, TEMPLATE),
    }
    fields.update({key.replace("__", "."): field for key, field in changes.items()})
    return {key: field for key, field in fields.items() if field is not None}


def gguf(fields: dict, shapes: dict = SHAPES, *, offsets=None, counts=None, kind=0) -> bytes:
    headers, data = b"", b""
    for at, (name, shape) in enumerate(shapes.items()):
        offset = offsets[at] if offsets else len(data)
        headers += text(name) + struct.pack("<I", len(shape))
        headers += b"".join(struct.pack("<Q", size) for size in reversed(shape))
        headers += struct.pack("<IQ", kind, offset)
        size = 1
        for extent in shape:
            size *= extent
        if size < 1000:
            data += struct.pack(f"<{size}f", *[0.25] * size) + b"\0" * (-4 * size % 32)
    tensors, pairs = counts or (len(shapes), len(fields))
    head = b"GGUF" + struct.pack("<IQQ", 3, tensors, pairs)
    body = head + b"".join(pair(key, *field) for key, field in fields.items()) + headers
    return body + b"\0" * (-len(body) % 32) + data


def ggufs() -> None:
    plain = gguf(config())
    seed("gguf", "plain", plain)
    byte_level = {
        "tokenizer__ggml__model": (STRING, "gpt2"),
        "tokenizer__ggml__pre": (STRING, "llama-bpe"),
        "tokenizer__ggml__tokens": (STRING, ["a", "b", "ab", "\u0120", "<|eot_id|>", "abab"]),
        "tokenizer__ggml__token_type": (I32, [1, 1, 1, 1, 3, 1]),
        "tokenizer__ggml__merges": (STRING, ["a b", "ab ab"]),
    }
    seed("gguf", "byte-level", gguf(config(**byte_level)))
    for length in (3, 23, 100, len(plain) // 2, len(plain) - 1):
        seed("gguf", f"truncated-{length}", plain[:length])
    seed("gguf", "counts-2-64", gguf(config(), counts=(2**64 - 1, 2**64 - 1)))
    seed("gguf", "tensors-2-40", gguf(config(), counts=(2**40, len(config()))))
    seed("gguf", "offset-overflows", gguf(config(), offsets=[2**64 - 32] * len(SHAPES)))
    seed("gguf", "all-at-one-offset", gguf(config(), offsets=[0] * len(SHAPES)))
    for name, shape in [
        ("dimensions-2-62", (2**62, 4)),
        ("dimensions-product-wraps", (2**32, 2**32)),
        ("dimension-0", (0, 4)),
        ("vocabulary-2-40-without-data", (2**40, 4)),
    ]:
        seed("gguf", name, gguf(config(), SHAPES | {"token_embd.weight": shape}))
    seed("gguf", "type-unknown", gguf(config(), kind=99))
    seed("gguf", "quantised-rows-too-short", gguf(config(), kind=12))
    seed("gguf", "tensors-missing", gguf(config(), {"token_embd.weight": (6, 4)}))
    for name, key, field in [
        ("layers-2-32", "llama__block_count", (U32, 2**32 - 1)),
        ("layers-2-62", "llama__block_count", (U64, 2**62)),
        ("layers-4096", "llama__block_count", (U32, 4096)),
        ("context-2-31", "llama__context_length", (U32, 2**31)),
        ("context-2-63", "llama__context_length", (U64, 2**63)),
        ("heads-0", "llama__attention__head_count", (U32, 0)),
        ("heads-2-63", "llama__attention__head_count", (U64, 2**63)),
        ("head-dim-2-63", "llama__attention__key_length", (U64, 2**63)),
        ("kv-heads-0", "llama__attention__head_count_kv", (U32, 0)),
        ("epsilon-nan", "llama__attention__layer_norm_rms_epsilon", (F32, float("nan"))),
        ("scaling-nan", "llama__rope__scaling__factor", (F32, float("nan"))),
        ("alignment-0", "general__alignment", (U32, 0)),
        ("alignment-3", "general__alignment", (U32, 3)),
        ("alignment-2-63", "general__alignment", (U64, 2**63)),
        ("split-huge", "split__count", (U64, 2**62)),
        ("split-alone", "split__count", (U32, 99999)),
        ("template-unclosed", "tokenizer__chat_template", (STRING, "{% for x in")),
        ("template-loops", "tokenizer__chat_template", (STRING, LOOPS)),
        ("template-not-utf-8", "tokenizer__chat_template", (STRING, b"\xff\xfe")),
        ("bos-outside", "tokenizer__ggml__bos_token_id", (U32, 2**32 - 2)),
        ("no-tokens", "tokenizer__ggml__tokens", (STRING, [])),
        ("scores-nan", "tokenizer__ggml__scores", (F32, [float("nan")] * 6)),
        ("scores-short", "tokenizer__ggml__scores", (F32, [0.0])),
        ("scores-absent", "tokenizer__ggml__scores", None),
        ("kinds-strange", "tokenizer__ggml__token_type", (I32, [-1, 99, 2**31 - 1, 0, 6, 6])),
        ("tokens-empty-texts", "tokenizer__ggml__tokens", (STRING, [""] * 6)),
        ("tokens-all-equal", "tokenizer__ggml__tokens", (STRING, ["a"] * 6)),
        ("tokens-not-utf-8", "tokenizer__ggml__tokens", (STRING, [b"\xff\xc3\x28"] * 6)),
        ("name-of-lines", "general__architecture", (STRING, "ll\nama\r\n\x1b[31m" * 9)),
    ]:
        seed("gguf", name, gguf(config(**{key: field})))
    for name, merges in [
        ("merges-of-missing-tokens", ["a zz"]),
        ("merges-without-space", ["ab"]),
        ("merges-of-nothing", [" ", "  ", ""]),
        ("merges-in-a-ring", ["ab a", "a ba", "a b", "a b"]),
    ]:
        seed("gguf", name, gguf(config(**byte_level | {"tokenizer__ggml__merges": (STRING, merges)})))
    twice = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * pair("a", U32, 1)
    seed("gguf", "key-twice", twice)
    nested = text("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + struct.pack("<IQ", ARRAY, 1) * 500
    seed("gguf", "arrays-nested", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + nested)
    for kind in (0, STRING, 12):
        huge = text("k") + struct.pack("<IIQ", ARRAY, kind, 2**61 + 1)
        seed("gguf", f"array-of-2-61-of-type-{kind}", b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + huge)
    names = list(SHAPES)
    split = {"split__count": (U32, 2), "split__tensors__count": (U32, len(names))}
    first = gguf(config(split__no=(U32, 0), **split), {name: SHAPES[name] for name in names[:5]})
    second = gguf({"split.no": (U32, 1), "split.count": (U32, 2)}, {name: SHAPES[name] for name in names[5:]})
    seed("gguf", "split", first, second)
    seed("gguf", "split-both-first", first, first)


# ---- Hugging Face

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"

HUGGING_FACE = {
    "model.embed_tokens.weight": (6, 4),
    "model.norm.weight": (4,),
    "model.layers.0.input_layernorm.weight": (4,),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
    "model.layers.0.self_attn.k_proj.weight": (4, 4),
    "model.layers.0.self_attn.v_proj.weight": (4, 4),
    "model.layers.0.self_attn.o_proj.weight": (4, 4),
    "model.layers.0.post_attention_layernorm.weight": (4,),
    "model.layers.0.mlp.gate_proj.weight": (4, 4),
    "model.layers.0.mlp.up_proj.weight": (4, 4),
    "model.layers.0.mlp.down_proj.weight": (4, 4),
}


def hugging_face_config(**changes) -> str:
    fields = {
        "model_type": "llama",
        "hidden_size": 4,
        "num_attention_heads": 1,
        "num_hidden_layers": 1,
        "intermediate_size": 4,
        "vocab_size": 6,
        "tie_word_embeddings": True,
    }
    return json.dumps(fields | changes)


def safetensors(shapes: dict, *, header: bytes | None = None, length: int | None = None) -> bytes:
    entries, at = {}, 0
    for name, shape in shapes.items():
        size = 4
        for extent in shape:
            size *= extent
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = header if header is not None else json.dumps(entries).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + b"\0" * min(at, 4096)


def hugging_face() -> None:
    plain = safetensors(HUGGING_FACE)
    name = "hugging_face"
    seed(name, "plain", hugging_face_config(), plain)
    seed(name, "header-2-64", hugging_face_config(), safetensors(HUGGING_FACE, length=2**64 - 1))
    seed(name, "header-longer-than-file", hugging_face_config(), safetensors(HUGGING_FACE, length=10**6))
    seed(name, "header-empty", hugging_face_config(), safetensors({}, header=b""))
    seed(name, "header-nested", hugging_face_config(), safetensors({}, header=b'{"a":' + b"[" * 5000))
    for what, offsets, shape in [
        ("offsets-backwards", [96, 0], [6, 4]),
        ("offsets-2-63", [2**63, 2**63 + 96], [6, 4]),
        ("offsets-2-64", [2**64 - 1, 2**64 - 1], [0]),
        ("shape-wraps", [0, 0], [2**32, 2**32]),
        ("shape-2-62", [0, 96], [2**62, 4]),
        ("shape-negative", [0, 96], [-1, 4]),
    ]:
        entry = {"model.embed_tokens.weight": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
        seed(name, what, hugging_face_config(), safetensors({}, header=json.dumps(entry).encode()))
    for what, changes in [
        ("layers-2-62", {"num_hidden_layers": 2**62}),
        ("layers-1e300", {"num_hidden_layers": 1e300}),
        ("layers-negative", {"num_hidden_layers": -1}),
        ("vocabulary-2-53", {"vocab_size": 2**53}),
        ("heads-0", {"num_attention_heads": 0}),
        ("head-dim-2-62", {"head_dim": 2**62, "num_attention_heads": 4}),
        ("context-2-31", {"max_position_embeddings": 2**31}),
        ("scaling-strange", {"rope_scaling": {"rope_type": "llama3", "factor": -1e308}}),
        ("scaling-list", {"rope_scaling": [[[[]]]]}),
        ("experts", {"model_type": "llama4_text", "num_local_experts": 2**60, "interleave_moe_layer_step": 0}),
        ("type-of-lines", {"model_type": "a\n\r\x1b" * 99}),
        ("eos-list", {"eos_token_id": list(range(3000))}),
    ]:
        seed(name, what, hugging_face_config(**changes), plain)
    seed(name, "config-nested", '{"a":' + "[" * 5000, plain)
    seed(name, "config-not-utf-8", b'{"model_type": "\xff"}', plain)
    seed(name, "config-empty", "", plain)
    seed(name, "truncated", hugging_face_config(), plain[:-1])
    index = {"weight_map": {key: "model.safetensors" for key in HUGGING_FACE}}
    seed(name, "index", hugging_face_config(), plain, json.dumps(index))
    for what, file in [("outside", "../x.safetensors"), ("itself", "model.safetensors.index.json"), ("nul", "\0.safetensors")]:
        seed(name, f"index-{what}", hugging_face_config(), plain, json.dumps({"weight_map": {"a": file}}))


# ---- Adapters, for the tiny model that the target opens: dim 96, 3 layers, 256 tokens

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"
PEFT = {f"{QUERY}.lora_A.weight": (1, 96), f"{QUERY}.lora_B.weight": (96, 1)}
LORA = {"blk.0.attn_q.weight.lora_a": (1, 96), "blk.0.attn_q.weight.lora_b": (96, 1)}


def adapter_config(**changes) -> str:
    return json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["q_proj"]} | changes)


def adapter_metadata(**changes) -> dict:
    fields = {
        "general.architecture": (STRING, "llama"),
        "general.type": (STRING, "adapter"),
        "adapter.type": (STRING, "lora"),
        "adapter.lora.alpha": (F32, 2.0),
    }
    fields.update({key.replace("__", "."): field for key, field in changes.items()})
    return {key: field for key, field in fields.items() if field is not None}


def adapters() -> None:
    name, plain = "adapter", safetensors(PEFT)
    seed(name, "peft", adapter_config(), plain)
    seed(name, "peft-patterns", adapter_config(r=8, rank_pattern={"q_proj": 1}, alpha_pattern={"q_proj": 3}), plain)
    for what, changes in [
        ("rank-0", {"r": 0}),
        ("rank-2-62", {"r": 2**62}),
        ("rank-negative", {"r": -1}),
        ("alpha-1e300", {"lora_alpha": 1e300}),
        ("alpha-text", {"lora_alpha": "8"}),
        ("dora", {"use_dora": True}),
        ("dora-strange", {"use_dora": 7}),
        ("biases", {"bias": "all"}),
        ("transposed", {"fan_in_fan_out": True}),
        ("modules", {"modules_to_save": ["lm_head"]}),
        ("pissa", {"init_lora_weights": "pissa_niter_4"}),
        ("type-of-lines", {"peft_type": "a\n\r\x1b" * 99}),
        ("pattern-expression", {"alpha_pattern": {"(a+)+$": 1}}),
        ("pattern-empty", {"alpha_pattern": {"": 1, "^": 2}}),
        ("patterns-many", {"alpha_pattern": {f"p{number}": number for number in range(5000)}}),
        ("patterns-list", {"alpha_pattern": [[[]]]}),
    ]:
        seed(name, f"peft-{what}", adapter_config(**changes), plain)
    seed(name, "peft-config-nested", '{"a":' + "[" * 5000, plain)
    seed(name, "peft-truncated", adapter_config(), plain[:-1])
    for what, shapes in [
        ("half", {f"{QUERY}.lora_A.weight": (1, 96)}),
        ("ranks-differ", {f"{QUERY}.lora_A.weight": (1, 96), f"{QUERY}.lora_B.weight": (96, 2)}),
        ("rank-0", {f"{QUERY}.lora_A.weight": (0, 96), f"{QUERY}.lora_B.weight": (96, 0)}),
        ("rank-huge", {f"{QUERY}.lora_A.weight": (0, 2**60), f"{QUERY}.lora_B.weight": (2**60, 0)}),
        ("other-model", {f"{QUERY}.lora_A.weight": (1, 64), f"{QUERY}.lora_B.weight": (64, 1)}),
        ("vector", {f"{QUERY}.lora_A.weight": (96,), f"{QUERY}.lora_B.weight": (96,)}),
        ("nothing", {}),
        ("stranger", PEFT | {"base_model.model.model.norm.weight": (96,)}),
        ("layer-2-60", {key.replace("layers.0", f"layers.{2**60}"): size for key, size in PEFT.items()}),
        ("embedding", {key.replace("layers.0.self_attn.q_proj", "embed_tokens"): size for key, size in PEFT.items()}),
        ("same-twice", PEFT | {key.replace("model.model.model", "model.language_model.model"): size for key, size in PEFT.items()}),
    ]:
        seed(name, f"peft-tensors-{what}", adapter_config(), safetensors(shapes))
    seed(name, "gguf", gguf(adapter_metadata(), LORA))
    seed(name, "gguf-model", gguf(config()))
    seed(name, "gguf-truncated", gguf(adapter_metadata(), LORA)[:-200])
    for what, key, field in [
        ("alpha-nan", "adapter__lora__alpha", (F32, float("nan"))),
        ("alpha-text", "adapter__lora__alpha", (STRING, "8")),
        ("alpha-absent", "adapter__lora__alpha", None),
        ("type-absent", "adapter__type", None),
        ("type-control-vector", "adapter__type", (STRING, "controlvector")),
        ("other-architecture", "general__architecture", (STRING, "qwen\n2" * 50)),
        ("triggered", "adapter__alora__invocation_tokens", (U32, [1, 2])),
        ("trigger-strange", "adapter__alora__invocation_tokens", (U32, 1)),
        ("split", "split__count", (U32, 2)),
    ]:
        seed(name, f"gguf-{what}", gguf(adapter_metadata(**{key: field}), LORA))
    for what, shapes in [
        ("half", {"blk.0.attn_q.weight.lora_b": (96, 1)}),
        ("rank-2-40", {"blk.0.attn_q.weight.lora_a": (2**40, 96), "blk.0.attn_q.weight.lora_b": (96, 2**40)}),
        ("norm", LORA | {"blk.0.attn_norm.weight": (96,)}),
        ("embedding", {"token_embd.weight.lora_a": (1, 96), "token_embd.weight.lora_b": (256, 1)}),
        ("three-dimensions", {"blk.0.attn_q.weight.lora_a": (1, 1, 96), "blk.0.attn_q.weight.lora_b": (96, 1)}),
    ]:
        seed(name, f"gguf-tensors-{what}", gguf(adapter_metadata(), shapes))
    seed(name, "gguf-quantised", gguf(adapter_metadata(), LORA, kind=8))


# ---- Meta: a pickle by hand, one instruction at a time

GLOBAL = {
    "rebuild": b"ctorch._utils\n_rebuild_tensor_v2\n",
    "float": b"ctorch\nFloatStorage\n",
    "long": b"ctorch\nLongStorage\n",
    "ordered": b"ccollections\nOrderedDict\n",
}

META = {
    "tok_embeddings.weight": (6, 4),
    "norm.weight": (4,),
    "layers.0.attention_norm.weight": (4,),
    "layers.0.attention.wq.weight": (4, 4),
    "layers.0.attention.wk.weight": (4, 4),
    "layers.0.attention.wv.weight": (4, 4),
    "layers.0.attention.wo.weight": (4, 4),
    "layers.0.ffn_norm.weight": (4,),
    "layers.0.feed_forward.w1.weight": (4, 4),
    "layers.0.feed_forward.w3.weight": (4, 4),
    "layers.0.feed_forward.w2.weight": (4, 4),
    "output.weight": (6, 4),
}


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def string(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def sizes(values: tuple) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def tensor(shape: tuple, *, key="0", strides=None, offset=0, count=1024, storage="float") -> bytes:
    if strides is None:
        strides, step = [], 1
        for extent in reversed(shape):
            strides.insert(0, step)
            step *= max(extent, 1)
        strides = tuple(min(stride, 2**62) for stride in strides)
    place = b"(" + string("storage") + GLOBAL[storage] + string(key) + string("cpu") + number(count) + b"tQ"
    return GLOBAL["rebuild"] + b"(" + place + number(offset) + sizes(shape) + sizes(strides) + b"\x89}tR"


def pickle(tensors: dict) -> bytes:
    items = b"".join(string(name) + body for name, body in tensors.items())
    return b"\x80\x02}(" + items + b"u."


def archive(program: bytes, *, storages=("0",), method=zipfile.ZIP_STORED, bomb=0) -> bytes:
    out = io.BytesIO()

    def entry(name: str) -> zipfile.ZipInfo:
        # Of a fixed date, not of now: the same bytes whenever this runs.
        return zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))

    with zipfile.ZipFile(out, "w") as file:
        file.writestr(entry("m/data.pkl"), program, method)
        for key in storages:
            file.writestr(entry(f"m/data/{key}"), b"\0" * (4096 + bomb), method)
    return out.getvalue()


def meta() -> None:
    params = json.dumps({"dim": 4, "n_layers": 1, "n_heads": 1, "vocab_size": -1})
    plain = {name: tensor(shape) for name, shape in META.items()}
    name = "meta"
    seed(name, "plain", params, archive(pickle(plain)))
    half = {key: tensor(shape if len(shape) == 1 else (shape[0], shape[1])) for key, shape in META.items()}
    seed(name, "two-ranks", params, archive(pickle(half)), archive(pickle(half)))
    seed(name, "zip-bomb", params, archive(pickle(plain), method=zipfile.ZIP_DEFLATED, bomb=10**7))
    file = archive(pickle(plain))
    seed(name, "truncated", params, file[: len(file) // 2])
    seed(name, "directory-truncated", params, file[:-30])
    end = file.rindex(b"PK\x05\x06")
    for what, at, raw in [
        ("entries-65535", end + 8, b"\xff\xff\xff\xff"),
        ("directory-nowhere", end + 16, b"\xff\xff\xff\xff"),
        ("directory-at-itself", end + 16, struct.pack("<I", end)),
    ]:
        seed(name, what, params, file[:at] + raw + file[at + len(raw) :])
    zip64 = b"PK\x06\x07" + struct.pack("<IQI", 0, 2**64 - 8, 1)
    seed(name, "zip64-nowhere", params, file[:end] + zip64 + file[end:])
    for what, changes in [
        ("layers-2-62", {"n_layers": 2**62}),
        ("heads-0", {"n_heads": 0}),
        ("kv-heads-0", {"n_kv_heads": 0}),
        ("dim-2-62", {"dim": 2**62}),
        ("multiple-of-0", {"multiple_of": 0}),
        ("multiplier-1e308", {"ffn_dim_multiplier": 1e308}),
        ("vocabulary-text", {"vocab_size": "many\nlines"}),
        ("experts", {"moe_args": {"num_experts": 2**60, "interleave_moe_layer_step": 2**60}}),
    ]:
        changed = json.dumps(json.loads(params) | changes)
        seed(name, f"params-{what}", changed, archive(pickle(plain)))
    seed(name, "params-nested", '{"a":' + "[" * 5000, archive(pickle(plain)))
    # Three ranks: sizes of no elements multiply, and scalars have no first dimension.
    ranks = json.dumps({"dim": 4, "n_layers": 1, "n_heads": 3, "n_kv_heads": 3, "vocab_size": -1})
    key = "layers.0.attention.wk.weight"
    for what, target, body in [
        ("rows-wrap", "tok_embeddings.weight", tensor((2**62, 0), strides=(0, 1))),
        ("width-wraps", "layers.0.feed_forward.w1.weight", tensor((2**62, 0), strides=(0, 1))),
        ("scalar-keys", key, tensor(())),
        ("keys-wrap", key, tensor((2**62, 0), strides=(0, 1))),
        ("integers-without-end", key, tensor((2**20, 2**20), strides=(1, 2**20), count=2**40, storage="long")),
    ]:
        file = archive(pickle(plain | {target: body}))
        seed(name, f"ranks-{what}", ranks, file, file, file)


def pickles() -> None:
    name = "pickle"
    plain = {key: tensor(shape) for key, shape in META.items()}
    seed(name, "plain", pickle(plain))
    seed(name, "evil-global", b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.")
    seed(name, "global-of-lines", b"\x80\x02cos\x1b[31m\r\nsystem\r\n.")
    seed(name, "memo-cycle", b"\x80\x02]q\x00(h\x00h\x00h\x00eX\x01\0\0\0ah\x00}X\x01\0\0\0ah\x00s.")
    seed(name, "dictionary-in-itself", b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.")
    seed(name, "memo-far", b"\x80\x02}r\xff\xff\xff\xffj\xff\xff\xff\xff.")
    seed(name, "memo-missing", b"\x80\x02h\x07.")
    seed(name, "marks", b"\x80\x02" + b"(" * 20000 + b"t" * 20000 + b".")
    seed(name, "tuples-nested", b"\x80\x02)" + b"\x85" * 20000 + b".")
    seed(name, "string-2-32", b"\x80\x02X\xff\xff\xff\xffabc")
    seed(name, "string-2-63", b"\x80\x02\x8c\xff")
    seed(name, "no-end", b"\x80\x02}")
    seed(name, "empty", b"")
    seed(name, "stop-only", b".")
    seed(name, "number-wide", b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".")
    for what, body in [
        ("shape-2-62", tensor((2**62, 4))),
        ("strides-wrap", tensor((2, 2), strides=(2**62, 2**62))),
        ("strides-negative", tensor((2, 2), strides=(-1, -1))),
        ("strides-0", tensor((1024,), strides=(0,))),
        ("offset-2-62", tensor((4,), offset=2**62)),
        ("nothing-at-offset-2-62", tensor((0,), offset=2**62)),
        ("count-2-62", tensor((4,), count=2**62)),
        ("count-negative", tensor((4,), count=-1)),
        ("nine-dimensions", tensor((1,) * 9)),
        ("scalar", tensor(())),
        ("storage-missing", tensor((4,), key="../../x\n")),
        ("storage-of-integers", tensor((4,), storage="long")),
    ]:
        seed(name, what, pickle(plain | {"norm.weight": body}))


# ---- tokenizer files


def tokenizer_json(**changes) -> str:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u0120": 3}, "merges": ["a b"]}
    file = {
        "added_tokens": [{"id": 4, "content": "<|eot_id|>", "special": True}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "model": model,
    }
    return json.dumps(file | changes)


def tokenizers() -> None:
    name = "tokenizer_json"
    seed(name, "plain", tokenizer_json(), '{"eos_token": "<|eot_id|>"}', "{}")
    pieces = {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "merges": [["\u2581", "a"]]}
    pieces["vocab"] = {piece: at for at, piece in enumerate(["<unk>", "<s>", "<0x0A>", "\u2581", "a", "\u2581a"])}
    space = {"type": "Metaspace", "replacement": "\u2581", "split": False, "prepend_scheme": "first"}
    seed(name, "sentence-piece", tokenizer_json(model=pieces, pre_tokenizer=space, added_tokens=[]))
    for what, model in [
        ("id-2-32", {"vocab": {"a": 2**32 - 1}}),
        ("id-negative", {"vocab": {"a": -1}}),
        ("ids-equal", {"vocab": {"a": 0, "b": 0}}),
        ("ids-apart", {"vocab": {"a": 3_900_000}}),
        ("merges-of-missing-tokens", {"vocab": {"a": 0}, "merges": ["a b"]}),
        ("merges-of-three", {"vocab": {"a": 0}, "merges": [["a", "a", "a"]]}),
        ("merges-of-numbers", {"vocab": {"a": 0}, "merges": [[1, 2]]}),
        ("vocabulary-empty", {"vocab": {}}),
        ("vocabulary-list", {"vocab": [["a", 0.0]]}),
        ("unigram", {"type": "Unigram", "vocab": [["a", -1.0]]}),
        ("type-of-lines", {"type": "x\n" * 999, "vocab": {}}),
    ]:
        seed(name, what, tokenizer_json(model=model))
    for what, tokens in [
        ("added-id-2-32", [{"id": 2**32 - 1, "content": "x"}]),
        ("added-empty", [{"id": 4, "content": ""}]),
        ("added-twice", [{"id": 4, "content": "x"}, {"id": 5, "content": "x"}, {"id": 4, "content": "y"}]),
        ("added-prefixes", [{"id": 4 + n, "content": "a" * n} for n in range(1, 200)]),
        ("added-strip", [{"id": 4, "content": " ", "lstrip": True, "rstrip": True, "single_word": True}]),
    ]:
        seed(name, what, tokenizer_json(added_tokens=tokens))
    regex = {"type": "Split", "pattern": {"Regex": "(a+)+$" * 50}, "behavior": "Isolated"}
    seed(name, "regex-of-death", tokenizer_json(pre_tokenizer=regex))
    seed(name, "components-nested", tokenizer_json()[:-1] + ',"normalizer":' + "[" * 5000 + "}")
    sequence = {"type": "ByteLevel"}
    for _ in range(60):
        sequence = {"type": "Sequence", "pretokenizers": [sequence]}
    seed(name, "sequences-nested", tokenizer_json(pre_tokenizer=sequence))
    seed(name, "lone-surrogate", '{"model": {"vocab": {"\\ud800": 0}}}')
    seed(name, "empty", "")
    seed(name, "config-nested", tokenizer_json(), '{"a":' + "[" * 5000)
    seed(name, "config-strange", tokenizer_json(), '{"eos_token": {"content": ["x"]}, "bos_token": 7}')

    name = "tokenizer_model"

    def varint(value: int) -> bytes:
        out = b""
        while value >= 0x80:
            out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
        return out + bytes([value])

    def field(number: int, raw: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(raw)) + raw

    def piece(spelling: str, score: float, kind: int) -> bytes:
        inner = field(1, spelling.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + varint(kind)
        return field(1, inner)

    kinds = [2, 3, 3, 6, 1, 1]
    plain = b"".join(piece(text, -float(at), kinds[at]) for at, text in enumerate(PIECES))
    seed(name, "sentence-piece", plain + field(2, b"\x18\x02") + field(3, b"\x18\x01"))
    seed(name, "sentence-piece-truncated", plain[:-3])
    seed(name, "sentence-piece-unigram", plain + field(2, b"\x18\x01"))
    seed(name, "sentence-piece-no-pieces", field(1, b""))
    seed(name, "sentence-piece-score-nan", plain + piece("x", float("nan"), 1))
    seed(name, "sentence-piece-kind-2-63", plain + piece("x", 0.0, 2**63))
    seed(name, "sentence-piece-length-2-63", b"\x0a" + varint(2**63 - 1) + b"x")
    seed(name, "sentence-piece-varint-endless", b"\x0a" + b"\xff" * 40)
    seed(name, "sentence-piece-ids-outside", plain + field(2, b"\x18\x02" + varint(41 << 3) + varint(2**31)))
    seed(name, "sentence-piece-groups", b"\x0a\x00" + b"\x0b" * 999)
    ranks = b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256))
    seed(name, "tiktoken-256", ranks)
    seed(name, "tiktoken-rank-2-64", b"IQ== 18446744073709551616\n")
    seed(name, "tiktoken-rank-apart", b"IQ== 16777215\n")
    seed(name, "tiktoken-rank-twice", b"IQ== 0\nIQ== 0\n")
    seed(name, "tiktoken-not-base64", b"!!!! 0\n")
    seed(name, "tiktoken-no-lines", b"A" * 5000)
    seed(name, "tiktoken-nothing", b" \n \n")
    seed(name, "empty", b"")


# ---- chat templates


def templates() -> None:
    name = "chat_template"
    double = "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}"
    two_of_themselves = "{% set a = namespace() %}{% set a.x = a %}{% set b = namespace() %}{% set b.x = b %}"
    long_list = "{% set ns = namespace() %}{% set a = ['x'] * 100000 %}{% set b = a[:] %}{% for i in range(100000) %}"
    characters = "{% set a = 'x' * 1000 %}{% set a = a * 4000 %}{% set a = a "
    long_text = "{% set a = 'x' * 1000 %}{% set a = a * 3500 %}{% set b = a[1:] %}{% for i in range(100000) %}"
    for what, source in [
        ("plain", TEMPLATE + "{% if add_generation_prompt %}{{ bos_token }}{% endif %}"),
        ("tools", "{{ tools | tojson(indent=4) }}{{ messages[2].tool_calls[0].function.arguments.x }}"),
        ("range-huge", "{% for i in range(999999999) %}x{% endfor %}"),
        ("range-negative", "{{ range(9223372036854775807, -9223372036854775808, -1) | list }}"),
        ("loops", LOOPS),
        ("text-times-1e9", "{{ 'a' * 1000000000 }}"),
        ("text-times-2-63", "{{ 'a' * 9223372036854775807 }}"),
        ("list-times-1e9", "{{ [1] * 1000000000 }}"),
        ("text-doubles-format", double + "{% set ns.x = '%s%s' | format(ns.x, ns.x) %}{% endfor %}"),
        ("list-doubles", double + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}"),
        ("list-doubles-json", double + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | tojson }}"),
        ("list-doubles-compared", double + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == [ns.x[0], ns.x[1]] }}"),
        ("macro-recursing", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"),
        ("macro-recursing-twice", "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(0) }}"),
        ("loop-recursing", "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}"),
        ("include-itself", "{% include 'chat' %}"),
        ("extends-itself", "{% extends 'chat' %}"),
        ("import-itself", "{% import 'chat' as x %}{{ x }}"),
        ("block-recursing", "{% block a %}{{ self.a() }}{% endblock %}"),
        ("parentheses", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"),
        ("lists-nested", "{{ " + "[" * 5000 + "]" * 5000 + " }}"),
        ("ifs-nested", "{% if 1 %}" * 3000 + "{% endif %}" * 3000),
        ("nots", "{{ " + "not " * 5000 + "1 }}"),
        ("minuses", "{{ " + "-" * 5000 + "1 }}"),
        ("concatenations", "{{ " + "1 ~ " * 5000 + "1 }}"),
        ("filters", "{{ 1 " + "| string " * 3000 + "}}"),
        ("attributes", "{{ x" + ".x" * 3000 + " }}"),
        ("calls", "{{ x" + "()" * 3000 + " }}"),
        ("indices", "{{ messages" + "[0]" * 3000 + " }}"),
        ("comparisons", "{{ 1 " + "< 2 " * 3000 + "}}"),
        ("elifs", "{% if 0 %}" + "{% elif 0 %}" * 3000 + "{% endif %}"),
        ("ternaries", "{{ " + "1 if 1 else " * 3000 + "1 }}"),
        ("indent", "{{ 'a\\nb' | indent(width=2000000000) }}"),
        ("tojson-indent", "{{ messages | tojson(indent=999999999999) }}"),
        ("format-width", "{{ '%999999999d' | format(1) }}"),
        ("method-width", "{{ 'a'.ljust(999999999) }}{{ 'a'.center(999999999) }}{{ 'a'.zfill(999999999) }}"),
        ("wordwrap", "{{ 'a b' | wordwrap(0) }}"),
        ("slice", "{{ [1] | slice(999999999) }}{{ [1] | batch(999999999, 0) | list }}"),
        ("batch-zero", "{{ [1] | batch(0) }}"),
        ("round", "{{ 1.5 | round(2147483647) }}"),
        ("range-step-0", "{{ range(0, 5, 0) | list }}"),
        ("power", "{{ 9 ** 999999999 }}{{ 2 ** 127 * 2 ** 127 }}"),
        ("division-by-zero", "{{ 1 // 0 }}{{ 1 % 0 }}{{ -170141183460469231731687303715884105728 // -1 }}"),
        ("negation", "{{ -(-9223372036854775808) }}{{ (-9223372036854775808) | abs }}"),
        ("slicing", "{{ 'abc'[::0] }}{{ 'abc'[9223372036854775807:-9223372036854775808:-1] }}"),
        ("exception-of-lines", "{{ raise_exception('a\\n\\r\\x1b' * 50) }}"),
        ("exception-long", "{{ raise_exception('a' * 90000) }}"),
        ("strftime", "{{ strftime_now('%Q%%%9999999d%') }}"),
        ("not-closed", "{{ 'abc"),
        ("not-closed-tag", "{% if"),
        ("generation", "{% generation %}{% endgeneration %}{%generation-%}"),
        ("raw-not-closed", "{% raw %}{{"),
        ("comment-not-closed", "{# abc"),
        ("not-utf-8", b"{{ '\xff' }}"),
        ("empty", ""),
        ("marks", "\uf8ff{{ '\uf8ff' }}{{ messages[1].content }}{{ __alti_mark }}"),
        ("mark-taken-over", "{% set __alti_mark = 'a' %}{{ messages | tojson }}"),
        ("loop-controls", "{% for x in [1] %}{% break %}{% continue %}{% endfor %}"),
        ("call-block", "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{{ f() }}{% endcall %}"),
        ("debug", "{{ debug() }}{{ self }}{{ loop }}"),
        ("attributes-of-itself", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}"),
        ("attributes-of-itself-json", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns | tojson }}"),
        ("list-of-itself", "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x | string }}"),
        ("two-of-themselves-compared", two_of_themselves + "{{ a == b }}{{ a is eq b }}"),
        ("two-of-themselves-changed", two_of_themselves + "{% for i in [a, b] %}{{ loop.changed(i) }}{% endfor %}"),
        ("key-of-itself", two_of_themselves + "{{ messages[0][a] }}{{ a in 'x' }}{{ a | e }}"),
        ("loop-of-itself", "{% for i in [1, 2] %}{{ loop.changed(loop) }}{% endfor %}"),
        ("cycle-of-nothing", "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}"),
        ("long-texts-compared", long_text + "{% if a == b %}{% endif %}{% endfor %}"),
        ("long-texts-searched", long_text + "{% if 'y' in a %}{% endif %}{{ a | length }}{% endfor %}"),
        ("long-texts-iterated", long_text + "{% for c in a %}{% break %}{% endfor %}{% endfor %}"),
        ("long-texts-as-keys", long_text + "{{ messages[0][a] }}{% endfor %}"),
        ("long-lists-compared", long_list + "{% if a == b %}{% endif %}{% endfor %}"),
        ("long-lists-searched", long_list + "{% if 'y' in a %}{% endif %}{% endfor %}"),
        ("long-lists-held", long_list + "{% set ns.x = a %}{% if loop.changed(b) %}{% endif %}{% endfor %}"),
        ("long-lists-as-keys", long_list + "{% if messages[0][a] %}{% endif %}{% endfor %}"),
        ("long-lists-smallest", long_list + "{% if a | min == b | max %}{% endif %}{% endfor %}"),
        ("long-texts-smallest", long_text + "{% if a | min == b | max %}{% endif %}{% endfor %}"),
        ("long-texts-in-lower-case", long_text + "{% if a is lower or b is upper %}{% endif %}{% endfor %}"),
        ("long-texts-alike-searched", "{% set n = 'x' * 100000 + 'y' %}" + long_text + "{% if n in a %}{% endif %}{% endfor %}"),
        ("sorted-by-many-attributes", "{% set by = 'k,' * 10000 %}{% if ([{'k': 1}] * 10000) | sort(attribute=by) %}{% endif %}"),
        ("sorted-by-many-attributes-of-none", "{% set by = 'k,' * 5000 %}{% if range(10000) | sort(attribute=by) %}{% endif %}"),
        ("digits-printed", "{% for i in range(100000) %}{{ '+' }}" + "1." * 39 + "{% endfor %}"),
        ("small-containers", "{% for i in range(100000) %}{% for j in range(100000) %}{% if i in [] %}{% endif %}{% endfor %}{% endfor %}"),
        ("characters-listed", characters + "| list %}"),
        ("characters-paired", characters + "| zip(range(9)) | list %}"),
        ("characters-batched", characters + "| batch(2) | list %}"),
        ("characters-grouped", characters + "| groupby('x') | list %}"),
        ("characters-mapped", characters + "| map(attribute='x') | list %}"),
        ("characters-sorted", characters + "| sort %}"),
        ("characters-joined", characters + "| join(',') %}"),
        ("pieces-of-nothing", "{% set a = ',' * 1000 %}{% set a = a * 4000 %}{% set a = a.split(',') %}"),
        ("pieces-of-nothing-filter", "{% set a = ',' * 1000 %}{% set a = a * 4000 %}{% set a = a | split(',') %}"),
        ("lines-of-nothing", "{% set a = '\n' * 1000 %}{% set a = a * 4000 %}{% set a = a.splitlines() %}"),
        ("words-of-a-character", "{% set a = 'x ' * 1000 %}{% set a = a * 2000 %}{% set a = a.split() %}"),
        ("long-ranges", "{% for i in range(100000) %}{{ range(100000) | last }}{% endfor %}"),
        ("pprint-doubles", double + "{% set ns.x = ns.x | pprint %}{% endfor %}"),
        ("debug-doubles", double + "{% set ns.x = debug() %}{% endfor %}"),
        ("escape-grows", "{% set ns = namespace(x='&' * 99999) %}{% for i in range(999) %}{% set ns.x = ns.x | e %}{% endfor %}"),
        ("texts-times-1e6", "{% set a = 'x' * 1000000 %}" * 99),
        ("tag-of-one-brace", "{% block a %}{{ self.a() }{%} endblock %}"),
        ("calls-190", "{{ x" + "()" * 190 + " }}"),
        ("ternaries-90", "{{ " + "1 if 1 else " * 90 + "1 }}"),
        ("nots-190", "{{ " + "not " * 190 + "1 }}"),
        ("additions-190", "{{ x" + " + x" * 190 + " }}"),
        ("indices-190", "{{ messages" + "[0]" * 190 + " }}"),
        ("elifs-190", "{% if 0 %}" + "{% elif 0 %}" * 190 + "{% endif %}"),
        ("ifs-with-chains", "{% if 1 %}" * 100 + "{{ x" + "|list" * 190 + " }}" + "{% endif %}" * 100),
        ("meter-taken-over", "{% set __alti_meter = 1 %}{% macro __alti_equal(a, b) %}{% endmacro %}{{ 1 == 1 }}"),
    ]:
        seed(name, what, source)


if __name__ == "__main__":
    ggufs()
    hugging_face()
    adapters()
    meta()
    pickles()
    tokenizers()
    templates()
