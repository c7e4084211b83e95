"""Whoever looks on while a run goes."""

from pipeline.device import footprint_bytes


class Watch:
    """Who looks on while a run goes; this one keeps to itself.

    Attributes:
        reloads: changes of process before this one.
        limit_bytes: footprint that may not be passed; 0 where there is no limit.
        bound_bytes: footprint above which another process takes over.
    """

    reloads = 0
    limit_bytes = 0
    bound_bytes = 0

    def footprint_bytes(self) -> int:
        """Measure all that the run holds, in bytes."""
        return footprint_bytes()

    def beat(self) -> None:
        """Hear that the run is alive, between two batches of a validation; may raise to end it."""

    def note(self, text: str) -> None:
        """Hear what a person should read."""

    def validated(self, step: int, val_loss: float) -> None:
        """Hear what a validation found."""
