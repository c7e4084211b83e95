"""A model folder as published with code of its own, and a terminal at which somebody says yes."""

import contextlib
import json
import os
import pty
import subprocess

from pipeline.data.tokenize.tokenizer import train_tokenizer
from pipeline.device import mx
from pipeline.files import read_json, write_json
from pipeline.model.network.build import build
from pipeline.model.network.tree import named_arrays

WORDS = "the quick brown fox jumps over the lazy dog and runs away from the house"
AUTO_MAP = {
    "AutoConfig": "configuration_phi3.Phi3Config",
    "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
}
TOKENIZER_MAP = {"AutoTokenizer": [None, "tokenization_phi3.Phi3Tokenizer"]}
PHI3 = {
    "model_type": "phi3",
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "auto_map": AUTO_MAP,
}


def published(folder, marker, **changes):
    """Write a model in the shape of Phi-3, with code that makes a file when it is run."""
    folder.mkdir()
    train_tokenizer(iter([WORDS]), 280, folder)
    size = max(read_json(folder / "tokenizer.json")["model"]["vocab"].values()) + 1
    config = PHI3 | {"vocab_size": size, "bos_token_id": 1, "eos_token_id": 2} | changes
    write_json(folder / "config.json", config)
    name_code(folder, LlamaTokenizer=TOKENIZER_MAP)
    for name in ("configuration", "modeling", "tokenization"):
        (folder / f"{name}_phi3.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    weights = named_arrays(build(config).parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def name_code(folder, **classes):
    """Let tokenizer_config.json name a class and code of its own."""
    [(name, auto_map)] = classes.items()
    path = folder / "tokenizer_config.json"
    write_json(path, read_json(path) | {"tokenizer_class": name, "auto_map": auto_map})


def at_a_terminal(command, **options):
    """Run a command at a terminal where each question is answered by yes.

    Returns:
        The exit code, and all that was written there.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, **options)
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while part := os.read(ours, 1 << 16):
            written += part
            if b"[y/N]" in part:
                os.write(ours, b"y\n")
    os.close(ours)
    return process.wait(), written.decode(errors="replace")


def write_rows(path, count=60):
    """Write rows of words."""
    words = WORDS.split()
    texts = [
        " ".join(words[index % 7 :] + words[: index % 5]) + f" {index}" for index in range(count)
    ]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
