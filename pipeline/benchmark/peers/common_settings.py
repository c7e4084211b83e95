"""The terms that all contestants train on."""

TARGETS = ("self_attn.q_proj", "self_attn.v_proj")
"""Layers that get an adapter, by their names within a block."""
SCALE = 2.0
"""Factor of the low-rank product."""
BETAS, EPS, WEIGHT_DECAY = (0.9, 0.999), 1e-8, 0.01
"""Of AdamW, with bias correction; the learning rate is constant and gradients are not clipped."""
