"""Commands that README.md and docs/ show."""

import re
import shlex

from tests.support.small import ROOT

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")),
]


def shell_commands(text):
    """Yield each command of the shell blocks of a text, without prompts, comments and outputs."""
    for block in re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", text, re.DOTALL | re.M):
        lines = block.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        for line in prompted or lines:
            words = shlex.split(line, comments=True)
            yield from split_commands(words)


def split_commands(words):
    """Split a line at `&&`, `;` and `|`; drop variables set before a command."""
    command = []
    for word in [*words, ";"]:
        if word in ("&&", "|", ";", "&", ">"):
            if command:
                yield command
            command = []
        elif command or not re.match(r"[A-Z_]+=", word):
            command.append(word)


def documented_commands():
    """List the commands of all documents, in their order, each once."""
    texts = [(ROOT / name).read_text() for name in DOCUMENTS]
    return list(
        dict.fromkeys(shlex.join(words) for text in texts for words in shell_commands(text))
    )
