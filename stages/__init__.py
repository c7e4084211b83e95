"""The stages. What a user can mend is printed without a traceback, while importing too.

Whatever they import finds the Hugging Face libraries off the network.
"""

import sys
from types import TracebackType

from pipeline.errors import PipelineError
from pipeline.external.offline import go_offline


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of the family as one message, and any other as Python does."""
    if isinstance(error, PipelineError):
        print(f"{kind.__name__}: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = report
go_offline()
