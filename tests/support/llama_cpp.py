"""llama.cpp, by the prebuilt package `xllamacpp`: another program that reads GGUF files."""

import json
import urllib.request

NUM_CANDIDATES = 5


class LlamaCpp:
    """A model in llama.cpp, whose attention and cache are in float32.

    It has one thread: threads that wait for each other do so in busy loops, which takes minutes
    where another process computes too.
    """

    def __init__(self, xllamacpp, file):
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_ctx, params.n_parallel, params.warmup = 1024, 1, False
        params.cpuparams.n_threads = 1
        kinds = xllamacpp.llama_flash_attn_type
        params.flash_attn_type = kinds.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self._server = xllamacpp.Server(params)  # listens on the loopback until it is collected

    def _post(self, path, **body):
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokenize(self, text):
        """Return the ids of a text in which special tokens are recognised."""
        return self._post("/tokenize", content=text, add_special=False, parse_special=True)[
            "tokens"
        ]

    def continued(self, ids, num_tokens):
        """Continue greedily, whatever ends a text.

        Returns:
            For each new token its id, and the log-probabilities of the likeliest ones, by id.
        """
        answer = self._post(
            "/completion",
            prompt=list(ids),
            n_predict=num_tokens,
            temperature=0,
            n_probs=NUM_CANDIDATES,
            ignore_eos=True,
        )
        return [
            (each["id"], {one["id"]: one["logprob"] for one in each["top_logprobs"]})
            for each in answer["completion_probabilities"]
        ]
