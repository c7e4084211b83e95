"""GGUF files written by the `gguf` package, of small models with random weights."""

import json

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

WIDTH, INNER, HEADS, KV_HEADS, BLOCKS = 256, 512, 8, 4, 2
NORMAL, CONTROL, BYTE = 1, 3, 6
QWEN3_HEAD = 64


def shapes(arch, vocabulary, tied, head):
    """List each tensor of a model with its shape, named as in a GGUF file."""
    found = {"token_embd.weight": (vocabulary, WIDTH), "output_norm.weight": (WIDTH,)}
    if not tied:
        found["output.weight"] = (vocabulary, WIDTH)
    for block in range(BLOCKS):
        inner = {
            "attn_norm.weight": (WIDTH,),
            "ffn_norm.weight": (WIDTH,),
            "attn_q.weight": (HEADS * head, WIDTH),
            "attn_k.weight": (KV_HEADS * head, WIDTH),
            "attn_v.weight": (KV_HEADS * head, WIDTH),
            "attn_output.weight": (WIDTH, HEADS * head),
            "ffn_gate.weight": (INNER, WIDTH),
            "ffn_up.weight": (INNER, WIDTH),
            "ffn_down.weight": (WIDTH, INNER),
        }
        if arch == "qwen2":
            inner |= {
                "attn_q.bias": (HEADS * head,),
                "attn_k.bias": (KV_HEADS * head,),
                "attn_v.bias": (KV_HEADS * head,),
            }
        if arch == "qwen3":
            inner |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
        found |= {f"blk.{block}.{name}": shape for name, shape in inner.items()}
    return found


def weights(arch, vocabulary, tied=True, head=None):
    """Draw the weights of a model; norms near 1."""
    head = head or (QWEN3_HEAD if arch == "qwen3" else WIDTH // HEADS)
    generator = np.random.default_rng(0)
    return {
        name: (
            1 + 0.1 * generator.standard_normal(shape)
            if "norm" in name
            else generator.standard_normal(shape) / np.sqrt(shape[-1])
        ).astype(np.float32)
        for name, shape in shapes(arch, vocabulary, tied, head).items()
    }


def byte_words(tokenizer):
    """Return the metadata of a byte-level tokenizer of the `tokenizers` library."""
    state = json.loads(tokenizer.to_str())
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    special = {token["content"] for token in state["added_tokens"]}
    return {
        "model": "gpt2",
        "tokens": tokens,
        "types": [CONTROL if token in special else NORMAL for token in tokens],
        "merges": [" ".join(merge) for merge in state["model"]["merges"]],
    }


def piece_words(tokenizer):
    """Return the metadata of a SentencePiece tokenizer: a score is the rank of a merge."""
    state = json.loads(tokenizer.to_str())
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    special = {token["content"] for token in state["added_tokens"]}
    scores = dict.fromkeys(tokens, -1e9)
    for rank, merge in reversed(list(enumerate(state["model"]["merges"]))):
        scores["".join(merge)] = -float(rank)
    kinds = [
        CONTROL if token in special else BYTE if token.startswith("<0x") else NORMAL
        for token in tokens
    ]
    return {
        "model": "llama",
        "tokens": tokens,
        "types": kinds,
        "scores": [scores[token] for token in tokens],
    }


def write_gguf(path, arch, words, arrays=None, kind="F32", pre="gpt-2", change=None):
    """Write a model.

    Args:
        path: of the file.
        arch: its architecture.
        words: metadata of the tokenizer.
        arrays: weights by name; drawn if None.
        kind: how matrices are packed.
        pre: name of the pre-tokenizer.
        change: gets the writer before it writes.
    """
    arrays = weights(arch, len(words["tokens"])) if arrays is None else arrays
    writer = GGUFWriter(path, arch)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(50_000.0)
    if arch == "qwen3":
        head = len(arrays["blk.0.attn_q_norm.weight"])
        writer.add_key_length(head)
        writer.add_value_length(head)
    writer.add_tokenizer_model(words["model"])
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words["tokens"])
    writer.add_token_types(words["types"])
    if "scores" in words:
        writer.add_token_scores(words["scores"])
    if "merges" in words:
        writer.add_token_merges(words["merges"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if change is not None:
        change(writer)
    for name, array in arrays.items():
        packed = GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        if packed.name in ("F32", "F16"):
            writer.add_tensor(name, array.astype("<f2" if packed.name == "F16" else "<f4"))
        else:
            writer.add_tensor(name, quantize(array, packed), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(values, num_heads):
    """Put rows into llama.cpp's order, as its converter does."""
    rows = values.shape[0]
    halves = values.reshape(num_heads, 2, rows // num_heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def write_float32_copy(source, target):
    """Write a GGUF file again with every tensor in float32, and all else as it was."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
