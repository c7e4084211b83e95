"""The commands that messages of the product tell a user to run."""

import ast
import re

from pipeline.files import ROOT

COMMAND = re.compile(
    r"`((?:python -m stages|dvc |make )[^`]+)`|\n  ((?:dvc|python -m stages)[^\n]+)"
)
VALUE = "VALUE"
"""Stands for what a message puts in; commands with it are left to the tests of their messages."""


def commands_in_messages():
    """List every command in a text of the code that is no docstring."""
    files = [*sorted((ROOT / "pipeline").rglob("*.py")), *sorted((ROOT / "stages").glob("*.py"))]
    found = {
        command
        for file in files
        for text in texts(ast.parse(file.read_text()))
        for command in commands(text)
    }
    return sorted(command for command in found if VALUE not in command)


def commands(text):
    return [(one or other).strip() for one, other in COMMAND.findall(text)]


def texts(tree):
    """Yield the texts of a module, docstrings left out."""
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                part.value if isinstance(part, ast.Constant) else VALUE for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from [node.value] if id(node) not in inside | docs else []
