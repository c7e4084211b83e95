"""An observer of a run: what the training loop reports to."""

from pipeline.machine import footprint_bytes


class Observer:
    """Observes a run; this default does nothing.

    Attributes:
        reloads: changes of process before this one.
        limit_bytes: footprint that may not be passed; 0: there is no limit.
        bound_bytes: footprint above which another process takes over.
    """

    reloads = 0
    limit_bytes = 0
    bound_bytes = 0

    def footprint_bytes(self) -> int:
        """Measure all that the run holds, in bytes."""
        return footprint_bytes()

    def heartbeat(self) -> None:
        """Take note that the run is alive, between two batches of a validation.

        An observer may raise here to end the validation.
        """

    def note(self, text: str) -> None:
        """Show a line to a person."""

    def validated(self, step: int, val_loss: float) -> None:
        """Take the result of a validation, in nats per token."""
