"""Stands in for a program that a test cannot make fail: `python -m tests.support.any_program FILE`.

It runs the Python code in the file.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    exec(Path(sys.argv[1]).read_text())
