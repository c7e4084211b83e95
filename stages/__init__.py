"""The stages. What a user can mend is printed without a traceback, while importing too.

Whatever they import finds the Hugging Face libraries off the network, and enough open files.
"""

import os
import signal
import sys
from types import TracebackType

from pipeline.config import faults
from pipeline.errors import PipelineError
from pipeline.external.offline import go_offline


def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an error of the family as one message, and any other as Python does."""
    if isinstance(error, BrokenPipeError):  # as of `| head`
        os._exit(128 + signal.SIGPIPE)
    if isinstance(error, OSError):
        error = faults.storage_error(error)
    if isinstance(error, PipelineError):
        code = faults.report(error)
        os._exit(code)  # Python would end with 1
    sys.__excepthook__(kind, error, trace)


sys.excepthook = report
go_offline()
faults.allow_open_files()
faults.use_temporary_folder()
