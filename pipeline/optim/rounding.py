"""Rounding to 16 bits at random, so that it is right in the mean."""

from dataclasses import dataclass

from pipeline.device import mx
from pipeline.files import sha256_bytes

FRACTION_BITS = {mx.bfloat16: 7, mx.float16: 10}
LEAST_DISTANCES = {mx.bfloat16: 2.0**-126, mx.float16: 2.0**-24}
"""Bits behind the point of a type, and the least distance of two of its numbers (of bfloat16: of
those that float32 can compute with)."""
FLOAT32_FRACTION_BITS, EXPONENT = 23, 0x7F800000


@dataclass(frozen=True)
class RandomRounding:
    """Rounds numbers up or down, with the probabilities that make the mean right.

    What is drawn depends on seed, tensor and step alone, so that a resumed run draws the same.
    (arXiv 1502.02551 §3)
    """

    seed: int

    def __call__(self, values: mx.array, dtype: mx.Dtype, name: str, step: mx.array) -> mx.array:
        """Round float32 numbers to a type of 16 bits.

        Args:
            values: weights after an update.
            dtype: float16 or bfloat16.
            name: of the tensor.
            step: of the update.
        """
        power = (values.view(mx.uint32) & EXPONENT).view(mx.float32)
        distance = mx.maximum(power * 2.0 ** -FRACTION_BITS[dtype], LEAST_DISTANCES[dtype])
        # So many bits are cut off. A share of just these bits makes the sum below exact.
        parts = 2.0 ** (FLOAT32_FRACTION_BITS - FRACTION_BITS[dtype])
        share = mx.floor(mx.random.uniform(shape=values.shape, key=self.key(name, step)) * parts)
        return (mx.floor(values / distance + share / parts) * distance).astype(dtype)

    def key(self, name: str, step: mx.array) -> mx.array:
        """Return the random key of a tensor at a step."""
        own = int(sha256_bytes(f"{self.seed} {name}".encode())[:8], 16)
        return mx.stack([mx.array(own, mx.uint32), step.astype(mx.uint32)])
