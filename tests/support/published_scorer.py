"""The predecessors' published scoring rule, as a reference for agreement; it is wrong on purpose.

Words are matched as parts of words, and any number like a year is the year. Its phrase lists are
put in our own words where only their kind was published.
"""

import math
import re
from collections import Counter

INSTITUTIONS = {
    0.35: ["nature", "science", "lancet", "nejm", "new england journal"],
    0.30: ["who", "cdc", "fda", "nih"],
    0.25: [".gov", "government"],
    0.20: ["official", "university"],
    0.18: ["institute", "academy"],
    0.15: ["journal", "peer-reviewed", "proceedings"],
    0.10: ["wikipedia"],
    0.08: ["news", "media"],
    0.05: ["blog", "social media"],
}
CONSENSUS = (
    "widely accepted|generally accepted|experts agree|scientific consensus|established fact|"
    "well-established|mainstream view|overwhelming evidence|settled science|according to experts|"
    "studies show|research confirms"
)
PRIMARY = (
    r"\b(?:patent|lab(?:oratory)? notebook|experiment(?:al)?|measurement|observation|field notes|"
    r"original (?:research|document)|first-?hand|primary source|manuscript|archiv(?:e|al)|"
    r"oral history|interview|correspondence|letter|diary|journal entry|logbook|specimen|sample|"
    r"photograph|scan|facsimile)\b"
)
CITATIONS = (
    r"\[\d+\]|\(\w+,? \d{4}\)|\(\w+ et al\.,? \d{4}\)|\[\w+ \d{4}\]|ibid|op\. cit|loc\. cit|"
    r"^\d+\. .*\d{4}"
)
KINDS = {
    "patent": "patent",
    "number": r"(?:us|ep|wo|de|gb|fr) ?\d+",
    "laboratory": "lab|experiment|measurement|observation",
    "verb": "measured|observed|recorded|weighed",
    "archive": "archive|manuscript|historical",
    "oral": "interview|oral history|correspondence|letter|diary",
    "paper": "abstract|introduction|methodology|results|conclusion|references",
    "textbook": "chapter|exercise|definition|theorem",
    "news": "news|reported|journalist",
    "wiki": "wiki",
    "government": "government|official|agency",
    "blog": "blog|posted",
}
PRIORS = {
    "patent": (0.05, 7.0),
    "historical_newspaper": (0.15, 6.0),
    "preprint": (0.50, 3.5),
    "wiki": (0.90, 1.0),
    "medical_guidelines": (0.85, 1.2),
    "government": (0.95, 0.5),
}


def published_score(text, metadata):
    """Give the weight and the entropy of the published rule."""
    low = " ".join([text, *(str(metadata.get(k, "")) for k in ("source", "url", "publisher"))])
    low = low.lower()
    found = re.search(r"(?:18|19|20[0-2])\d\d?\d", text[:2000])
    year = metadata.get("year") or (int(found[0][:4]) if found else None)
    cited = metadata.get("citations") or len(re.findall(CITATIONS, text, re.M))
    institution = max(
        [v for v, terms in INSTITUTIONS.items() if any(t in low for t in terms)] + [0]
    )
    consensus, primary = len(re.findall(CONSENSUS, low)), len(re.findall(PRIMARY, low))
    age = 0 if year is None else -0.15 if year < 1970 else 0.0 if year < 1995 else 0.15
    weight = 0.3 + min(0.25, 0.05 * math.log10(cited + 1)) + institution + min(0.2, 0.1 * consensus)
    weight += age - min(0.45, 0.15 * primary)
    counts = Counter({kind: 1 for kind, words in KINDS.items() if re.search(words, low)})
    total = sum(counts.values())
    shannon = -sum(n / total * math.log2(n / total) for n in counts.values()) if total else 0.0
    base = 1.5 if year is None or year >= 1995 else 3.5 if year >= 1970 else 5.5
    entropy = base + shannon + min(2.0, 0.5 * primary) + min(1.5, 0.3 * len(counts))
    entropy -= 1.5 * institution + min(1.0, 0.4 * consensus)
    numbers = min(max(weight, 0.0), 0.99), max(entropy, 0.0)
    if len(text) < 50:
        return 0.5, 3.0
    if prior := PRIORS.get(metadata.get("source_type")):
        return tuple(0.7 * p + 0.3 * n for p, n in zip(prior, numbers, strict=True))
    return numbers
