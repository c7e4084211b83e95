"""The stages. What a user can mend is printed without a traceback, while importing too."""

import sys
from types import TracebackType

from pipeline.errors import PipelineError


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of the family as one message, and any other as Python does."""
    if isinstance(error, PipelineError):
        print(f"{kind.__name__}: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = report
