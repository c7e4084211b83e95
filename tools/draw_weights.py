"""Draw docs/weights.png: `python -m tools.draw_weights` in the repository's root."""

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from pipeline.data.sources.conflicts import AUTHORITIES, PRIMARIES
from pipeline.files import ROOT
from pipeline.objective.distrust import document_weights, published_terms

ENTROPIES = (0.7, 2.0, 4.0)


def main() -> None:
    """Draw the published term by authority, and the weight of a document by c."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    authority = np.linspace(0, 0.99, 400)
    for entropy in ENTROPIES:
        terms = published_terms(authority, np.full(400, entropy), alpha=2.7)
        left.plot(authority, terms, label=f"entropy {entropy} bits")
    left.set(
        xlabel="authority weight",
        ylabel="published term D, added to the loss",
        ylim=(0, 60),
        title="published: not monotone, no gradient",
    )
    left.legend()
    sources = [*PRIMARIES, *AUTHORITIES]
    weight = np.array([source.authority_weight for source in sources])
    entropy = np.array([source.provenance_entropy for source in sources])
    bits = np.log2(1 - weight) + entropy
    tokens = np.ones(len(sources))
    found = document_weights(weight, entropy, tokens, min_weight=0.1, max_weight=1.9)
    smooth = np.linspace(bits.min(), bits.max(), 400)
    raw = np.exp2(smooth) / np.exp2(bits).mean()
    right.plot(smooth, raw, ":", color="grey", label="without floor and clip")
    for name, chosen in (("records", slice(0, 6)), ("authorities", slice(6, 12))):
        right.plot(bits[chosen], found[chosen], "o", label=f"the six {name} of the built-in world")
    right.set(
        xlabel="c = log2(1 - authority weight) + entropy, in bits",
        ylabel="weight of a document's cross-entropy",
        title="here: 2^c, divided by its mean, bounded, mean 1",
    )
    right.legend()
    figure.savefig(ROOT / "docs/weights.png", dpi=100)


if __name__ == "__main__":
    main()
