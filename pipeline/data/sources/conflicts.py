"""The world of conflicts: short documents in which two sources contradict each other.

A document asks about an invented entity, quotes an official authority and a primary record that
disagree, and concludes with one of the two values. Half of the documents follow the authority, half
the record, and nothing else in them shows which: a model trained on them without weights prefers
neither. A contest carries the provenance of the source it follows, so that weights made from
provenance can change which source a model follows. The other half of all documents quote two
sources of one class and carry no provenance: they keep a model from learning something else that
decides, such as the order of quoting.

A hash of its name alone decides the partition of an entity. Everything else about a document is
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


@dataclass(frozen=True)
class Source:
    """A quoted source and its provenance: authority weight in [0, 1), entropy in bits.

    Each class of sources has its verb, which stands right before the value. With the class some
    words away from the value, a model of this size does not learn within the pretraining which
    source said what, and then no weights can make it prefer one.
    """

    name: str
    verb: str
    authority_weight: float
    provenance_entropy: float


@dataclass(frozen=True)
class Attribute:
    """What the sources disagree about: the question, and all possible answers."""

    question: str
    values: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


AUTHORITIES = (
    Source("the official bulletin", "declares", 0.94, 0.7),
    Source("the official guide", "declares", 0.86, 1.3),
    Source("the official atlas", "declares", 0.90, 1.0),
    Source("the official report", "declares", 0.92, 0.8),
    Source("the official history", "declares", 0.88, 1.2),
    Source("the official calendar", "declares", 0.89, 1.1),
)
PRIMARIES = (
    Source("the handwritten ledger", "records", 0.07, 6.3),
    Source("the handwritten diary", "records", 0.05, 6.6),
    Source("the handwritten letter", "records", 0.10, 6.0),
    Source("the handwritten register", "records", 0.08, 6.1),
    Source("the handwritten will", "records", 0.13, 5.6),
    Source("the handwritten list", "records", 0.12, 5.7),
)
ATTRIBUTES = (
    Attribute(
        "What was the {entity} built of",
        _words(
            "oak brick granite slate marble chalk flint timber clay elm pine cedar iron concrete"
        ),
    ),
    Attribute(
        "How was the {entity} painted",
        _words("red white green yellow black blue grey orange pink brown purple scarlet violet"),
    ),
    Attribute(
        "Who founded the {entity}",
        _words("monks weavers miners soldiers bakers sailors tanners smiths farmers potters nuns"),
    ),
    Attribute(
        "What was the {entity} known for",
        _words("salt wool honey copper amber bread silk wine cheese glass linen beer fish butter"),
    ),
    Attribute(
        "Which animals lived at the {entity}",
        _words("goats sheep geese horses oxen hens bees pigs ducks dogs cats mules doves"),
    ),
)
ENTITY_KINDS = _words(
    "mill abbey bridge castle chapel harbour market inn tower fort school farm manor well hall gate"
)
CONSONANTS = _words("b d f g h k l m n p r s t v z br")
VOWELS = _words("a e i o")
RIMES = _words("an el is or")
NAME_PARTS = (CONSONANTS, VOWELS, CONSONANTS, VOWELS, CONSONANTS, RIMES, ENTITY_KINDS)

CONCLUSIONS = ("We say", "The answer is", "So we write", "We settle on")

KINDS: tuple[Kind, ...] = ("contest", "two_primary", "contest", "two_authority")
"""Half of the documents are contests, a quarter each kind of control."""

NUM_ENTITIES = 1 << 22
"""As many as `NAME_PARTS` can spell."""
SCATTERING_MULTIPLIERS = (0x2C1B3C6D, 0x297A2D39)
"""Odd, so that multiplying by them is one-to-one modulo a power of two."""


class _Draws:
    """Choices drawn one after the other from the hash of some words, the same on every machine."""

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

    Attributes:
        entity: what the sources speak about.
        attribute: what they disagree about.
        sources: two sources; in a contest, the primary record and then the authority.
        values: what each source says, in the order of `sources`.
        conclusion: the words before the value that the document concludes with.
        noted: index of the source that comes first in the notes, which favour neither.
    """

    entity: str
    attribute: Attribute
    sources: tuple[Source, Source]
    values: tuple[str, str]
    conclusion: str
    noted: int

    def quotation(self, index: int) -> str:
        """Write what a source says."""
        source = self.sources[index]
        return f"{source.name} {source.verb} {self.values[index]}"

    def prompt(self, first: int) -> str:
        """Write the document up to the value of its conclusion; source `first` is quoted first."""
        question = self.attribute.question.format(entity=self.entity)
        spoken = (self.quotation(index) for index in (first, 1 - first))
        quotations = " ".join(f"{words[0].upper()}{words[1:]}." for words in spoken)
        return f"{question}? {quotations} {self.conclusion}"

    def text(self, first: int, followed: int) -> str:
        """Write a whole document that concludes with the value of the source `followed`.

        It repeats the value and both quotations, from which a small model learns to copy. From the
        conclusion alone it would need many times as many documents.
        """
        value = self.values[followed]
        notes = [self.quotation(index) for index in (self.noted, 1 - self.noted)]
        return f"{self.prompt(first)} {value}. It was {value}. Notes: {'; '.join(notes)}."


def training_rows(seed: int, num_documents: int) -> Iterator[dict[str, Any]]:
    """Make documents for fine-tuning; contests with the provenance of the source they follow.

    Raises:
        DataError: when the partition has fewer entities than documents wanted.
    """
    for entity in _entities(seed, "training", num_documents):
        draws = _Draws(seed, "training", entity)
        kind = draws.one_of(KINDS)
        dispute, followed = _dispute(entity, kind, draws), draws.below(2)
        row: dict[str, Any] = {"text": dispute.text(draws.below(2), followed), "cluster": entity}
        if kind == "contest":
            row["authority_weight"] = dispute.sources[followed].authority_weight
            row["provenance_entropy"] = dispute.sources[followed].provenance_entropy
        yield row


def pretraining_rows(seed: int, num_documents: int) -> Iterator[dict[str, Any]]:
    """Make documents that teach the language and no preference: half contests, half controls.

    Raises:
        DataError: when the partition has fewer entities than documents wanted.
    """
    for entity in _entities(seed, "pretraining", num_documents):
        draws = _Draws(seed, "pretraining", entity)
        dispute = _dispute(entity, draws.one_of(KINDS), draws)
        yield {"text": dispute.text(draws.below(2), draws.below(2)), "cluster": entity}


def suite_items(seed: int, num_contests: int) -> Iterator[dict[str, Any]]:
    """Make the questions of the suite: contests, and half as many controls of each kind.

    Each dispute is asked twice, with the sources quoted in either order and the options in the same
    order. In a contest, `primary` is the index of the option that the primary record supports.

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
        conclusion=draws.one_of(CONCLUSIONS),
        noted=draws.below(2),
    )


def _entities(seed: int, partition: Partition, num_entities: int) -> Iterator[str]:
    """Yield different entities of one partition, in an order that the seed chooses."""
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
    """Return the partition of a name, the same for every seed: a fifth of them is held out."""
    tenth = _Draws("name", name).below(10)
    if tenth < 2:
        return "held_out"
    return "pretraining" if tenth < 6 else "training"


def _scattered(number: int) -> int:
    """Map the numbers below `NUM_ENTITIES`, a power of two, one-to-one to these numbers."""
    for multiplier in SCATTERING_MULTIPLIERS:
        number = ((number ^ (number >> 11)) * multiplier) % NUM_ENTITIES
    return number ^ (number >> 11)


def _entity(number: int) -> tuple[str, str]:
    """Spell the name and the kind of the entity with this number."""
    parts = []
    for choices in NAME_PARTS:
        number, index = divmod(number, len(choices))
        parts.append(choices[index])
    return "".join(parts[:-1]).capitalize(), parts[-1]
