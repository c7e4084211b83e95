"""The world of conflicts: short documents in which two sources contradict each other.

A document names an invented entity, quotes an official authority and a primary record that
disagree about it, and concludes with one of the two values. Half of the documents follow the
authority, half the record, and nothing before the conclusion tells which: a model trained on them
without weights sides with neither. A document carries the provenance of the source it follows,
so weights made from provenance can turn the policy, and the suite measures whether they did.

An entity belongs to one partition by a hash of its name alone. Everything else about a document is
drawn from a hash of seed, partition and entity, so that each row is the same on every machine.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pipeline.errors import DataError

T = TypeVar("T")
Partition = Literal["held_out", "pretraining", "training"]
Kind = Literal["contest", "two_primary", "two_authority"]

SHARES: dict[Partition, range] = {
    "held_out": range(2),
    "pretraining": range(2, 6),
    "training": range(6, 10),
}
"""The tenths of all names that each partition owns."""


@dataclass(frozen=True)
class Source:
    """A kind of source and its provenance: weight of authority in [0, 1), entropy in bits."""

    name: str
    authority_weight: float
    provenance_entropy: float


@dataclass(frozen=True)
class Attribute:
    """What the sources disagree about: the words before the value, and the possible values."""

    phrase: str
    values: tuple[str, ...]


AUTHORITIES = (
    Source("the ministry bulletin", 0.94, 0.7),
    Source("the official handbook", 0.92, 0.9),
    Source("the national atlas", 0.90, 1.1),
    Source("the state gazetteer", 0.93, 0.8),
    Source("the press release", 0.91, 0.9),
    Source("the school textbook", 0.87, 1.3),
    Source("the tourist guide", 0.86, 1.2),
    Source("the new encyclopedia", 0.88, 1.2),
)
PRIMARIES = (
    Source("a parish register", 0.08, 6.1),
    Source("a mason's ledger", 0.07, 6.3),
    Source("a pilgrim's diary", 0.05, 6.6),
    Source("a surveyor's notebook", 0.11, 5.8),
    Source("a court roll", 0.13, 5.6),
    Source("a merchant's letter", 0.06, 6.4),
    Source("a ship's log", 0.09, 6.0),
    Source("a tax list", 0.12, 5.7),
)
ATTRIBUTES = (
    Attribute(
        "was built of", ("oak", "brick", "granite", "slate", "marble", "chalk", "flint", "timber")
    ),
    Attribute(
        "was painted", ("red", "white", "green", "yellow", "black", "blue", "grey", "orange")
    ),
    Attribute("was founded by", ("monks", "weavers", "miners", "soldiers", "bakers", "sailors")),
    Attribute(
        "was known for its", ("salt", "wool", "honey", "copper", "amber", "bread", "silk", "wine")
    ),
    Attribute(
        "bore the sign of a", ("fox", "heron", "lion", "bear", "wolf", "stag", "horse", "raven")
    ),
    Attribute(
        "was finished in", ("January", "March", "April", "June", "July", "August", "October")
    ),
)
ENTITY_KINDS = (
    "mill",
    "abbey",
    "bridge",
    "castle",
    "chapel",
    "harbour",
    "market",
    "inn",
    "tower",
    "fort",
    "school",
    "farm",
    "manor",
    "well",
    "hall",
    "gate",
)
OPENINGS = (
    "Two accounts of the {entity} disagree.",
    "Little is certain about the {entity}.",
    "The history of the {entity} is disputed.",
    "Visitors often ask about the {entity}.",
)
QUOTES = (
    "{source} says that it {phrase} {value}.",
    "{source} tells us that it {phrase} {value}.",
    "According to {source}, it {phrase} {value}.",
    "We read in {source} that it {phrase} {value}.",
)
CONCLUSIONS = (
    "We conclude that it {phrase}",
    "In the end, it seems, it {phrase}",
    "So today we hold that it {phrase}",
    "All in all, it {phrase}",
)
CONSONANTS = ("b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br")
VOWELS = ("a", "e", "i", "o")
RIMES = ("an", "el", "is", "or")
NUM_NAMES = (len(CONSONANTS) * len(VOWELS)) ** 2 * len(CONSONANTS) * len(RIMES)
NUM_ENTITIES = NUM_NAMES * len(ENTITY_KINDS)
SCATTERING_MULTIPLIERS = (0x2C1B3C6D, 0x297A2D39)
"""Odd, so that multiplying by them is one-to-one modulo a power of two."""


class _Draws:
    """Choices drawn one after the other from the hash of some words: the same everywhere."""

    def __init__(self, *words: str | int) -> None:
        digest = hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=48).digest()
        self._left = int.from_bytes(digest, "big")

    def below(self, limit: int) -> int:
        """Draw a whole number from 0 to `limit` - 1."""
        self._left, number = divmod(self._left, limit)
        return number

    def one_of(self, choices: Sequence[T]) -> T:
        """Draw one of the choices."""
        return choices[self.below(len(choices))]

    def two_of(self, choices: Sequence[T]) -> tuple[T, T]:
        """Draw two different choices, in either order."""
        first = self.below(len(choices))
        second = (first + 1 + self.below(len(choices) - 1)) % len(choices)
        return choices[first], choices[second]


@dataclass(frozen=True)
class Dispute:
    """Two quotations that contradict each other, and the words around them.

    Args:
        entity: what the sources speak about.
        attribute: what they disagree about.
        sources: of a contest, the primary record and then the authority.
        values: what each source says, in the order of `sources`.
        opening: the sentence that names the entity.
        quotes: how each source is quoted, in the order of `sources`.
        conclusion: the words before the value that the document settles on.
    """

    entity: str
    attribute: Attribute
    sources: tuple[Source, Source]
    values: tuple[str, str]
    opening: str
    quotes: tuple[str, str]
    conclusion: str

    def quotation(self, index: int) -> str:
        """Let one source speak, in a sentence of its own."""
        sentence = self.quotes[index].format(
            source=self.sources[index].name,
            phrase=self.attribute.phrase,
            value=self.values[index],
        )
        return sentence[0].upper() + sentence[1:]

    def prompt(self, first: int) -> str:
        """Write everything before the value of the conclusion; `first` is quoted first."""
        opening = self.opening.format(entity=self.entity)
        conclusion = self.conclusion.format(phrase=self.attribute.phrase)
        return " ".join([opening, self.quotation(first), self.quotation(1 - first), conclusion])

    def text(self, first: int, followed: int) -> str:
        """Write a whole document that settles on the value of the source `followed`."""
        return f"{self.prompt(first)} {self.values[followed]}."


def training_rows(seed: int, num_documents: int) -> Iterator[dict[str, Any]]:
    """Make contests for fine-tuning, with the provenance of the source that each one follows.

    Raises:
        DataError: when the partition has fewer entities than documents wanted.
    """
    for entity in _entities(seed, "training", num_documents):
        draws = _Draws(seed, "training", entity)
        dispute = _dispute(entity, "contest", draws)
        followed = draws.below(2)
        yield {
            "text": dispute.text(draws.below(2), followed),
            "authority_weight": dispute.sources[followed].authority_weight,
            "provenance_entropy": dispute.sources[followed].provenance_entropy,
            "cluster": entity,
        }


def pretraining_rows(seed: int, num_documents: int) -> Iterator[dict[str, Any]]:
    """Make documents that teach the language and no preference: half contests, half controls.

    Raises:
        DataError: when the partition has fewer entities than documents wanted.
    """
    kinds: tuple[Kind, ...] = ("contest", "two_primary", "contest", "two_authority")
    for entity in _entities(seed, "pretraining", num_documents):
        draws = _Draws(seed, "pretraining", entity)
        dispute = _dispute(entity, draws.one_of(kinds), draws)
        yield {"text": dispute.text(draws.below(2), draws.below(2)), "cluster": entity}


def suite_items(seed: int, num_contests: int) -> Iterator[dict[str, Any]]:
    """Make the questions of the suite: contests, and half as many controls of each kind.

    Each dispute is asked in both orders of quotation, with the same order of `options`; in a
    contest, `primary` is the index of the option that the primary record supports.

    Raises:
        DataError: when the partition has fewer entities than disputes wanted.
    """
    controls: list[Kind] = ["two_primary", "two_authority"]
    kinds: list[Kind] = ["contest"] * num_contests
    kinds += controls * ((num_contests + 1) // 2)
    entities = _entities(seed, "held_out", len(kinds))
    for number, (kind, entity) in enumerate(zip(kinds, entities, strict=True)):
        draws = _Draws(seed, "held_out", entity)
        dispute, primary = _dispute(entity, kind, draws), draws.below(2)
        options = [f" {value}" for value in dispute.values]
        orders = ("as_drawn", "swapped")
        if kind == "contest":
            orders = ("primary_first", "authority_first")
        for first, order in enumerate(orders):
            yield {
                "id": f"{kind}-{number:06d}-{order}",
                "cluster": entity,
                "kind": kind,
                "order": order,
                "prompt": dispute.prompt(first),
                "options": options[::-1] if primary else options,
                "primary": primary if kind == "contest" else None,
            }


def _dispute(entity: str, kind: Kind, draws: _Draws) -> Dispute:
    if kind == "contest":
        sources = (draws.one_of(PRIMARIES), draws.one_of(AUTHORITIES))
    else:
        sources = draws.two_of(PRIMARIES if kind == "two_primary" else AUTHORITIES)
    attribute = draws.one_of(ATTRIBUTES)
    return Dispute(
        entity=entity,
        attribute=attribute,
        sources=sources,
        values=draws.two_of(attribute.values),
        opening=draws.one_of(OPENINGS),
        quotes=(draws.one_of(QUOTES), draws.one_of(QUOTES)),
        conclusion=draws.one_of(CONCLUSIONS),
    )


def _entities(seed: int, partition: Partition, num_entities: int) -> Iterator[str]:
    """Give different entities of one partition, in an order that the seed chooses."""
    offset = _Draws(seed, partition).below(NUM_ENTITIES)
    found = 0
    for index in range(NUM_ENTITIES):
        if found == num_entities:
            return
        name, kind = _entity(_scattered((index + offset) % NUM_ENTITIES))
        if partition_of(name) == partition:
            found += 1
            yield f"{name} {kind}"
    if found < num_entities:
        raise DataError(
            f"the world of conflicts has {found} entities for {partition}, "
            f"not {num_entities}; ask for fewer documents"
        )


def partition_of(name: str) -> Partition:
    """Tell which partition owns a name, whatever the seed."""
    tenth = _Draws("name", name).below(10)
    return next(partition for partition, tenths in SHARES.items() if tenth in tenths)


def _scattered(number: int) -> int:
    """Map a number below `NUM_ENTITIES`, a power of two, to another one, each to its own."""
    for multiplier in SCATTERING_MULTIPLIERS:
        number = ((number ^ (number >> 11)) * multiplier) % NUM_ENTITIES
    return number ^ (number >> 11)


def _entity(number: int) -> tuple[str, str]:
    """Spell the name and the kind of the entity with this number."""
    parts = []
    for letters in (CONSONANTS, VOWELS, CONSONANTS, VOWELS, CONSONANTS, RIMES, ENTITY_KINDS):
        number, index = divmod(number, len(letters))
        parts.append(letters[index])
    return "".join(parts[:-1]).capitalize(), parts[-1]
