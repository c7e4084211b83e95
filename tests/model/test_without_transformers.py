"""What a worker spares is all that mlx-lm takes from the Hugging Face libraries, and no more."""

import subprocess
import sys

from pipeline.model.without_transformers import SPARED

TAKEN = """
import ast, sys
from pathlib import Path
from pipeline.model.without_transformers import without_transformers
with without_transformers():
    from pipeline.model.network import upstream
    import pipeline.train.worker.serve

def at_import(body):
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node
            yield from at_import(ast.iter_child_nodes(node))

for name, module in list(sys.modules.items()):
    if name.split(".")[0] == "mlx_lm":
        for node in at_import(ast.parse(Path(module.__file__).read_text()).body):
            if isinstance(node, ast.ImportFrom) and node.module:
                if node.module.split(".")[0] in ("transformers", "huggingface_hub"):
                    print(*(f"{node.module}:{alias.name}" for alias in node.names), sep="\\n")
"""


def test_what_is_spared_is_what_mlx_lm_takes():
    done = subprocess.run([sys.executable, "-c", TAKEN], capture_output=True, text=True, check=True)
    spared = {f"{module}:{name}" for module, names in SPARED.items() for name in names}
    assert set(done.stdout.split()) == spared
