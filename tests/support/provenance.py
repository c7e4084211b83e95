"""What the tests of the provenance scorer share."""

from functools import cache

from omegaconf import OmegaConf

from pipeline.config.options import ProvenanceTables
from pipeline.data.provenance.score import Scorer
from pipeline.data.provenance.tables import Tables
from pipeline.data.rows.metadata import NO_METADATA, parse_metadata
from stages.params import composed


@cache
def defaults():
    return OmegaConf.to_container(composed(["data/provenance=heuristic"]).data.provenance.tables)


def tables(**changes):
    """Give the tables of conf/, some of them changed."""
    return ProvenanceTables(**{**defaults(), **changes})


@cache
def default_scorer():
    return Scorer(Tables(tables()))


def score(text, scorer=None, **metadata):
    """Score a text and the metadata of its row."""
    found = parse_metadata(metadata) if metadata else NO_METADATA
    return (scorer or default_scorer()).score(text, found)


def numbers(text, scorer=None, **metadata):
    found = score(text, scorer, **metadata)
    return found.authority_weight, found.provenance_entropy
