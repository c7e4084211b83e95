"""Architectures from transformers through training and export back to transformers."""

import pytest

from pipeline.model.architectures import IN_THE_TABLE
from tests.support.architectures import ARCHITECTURES
from tests.support.journey import DOCUMENT, recorded, rendered, verdict_of

FEWEST_PROVEN = 18


@pytest.fixture(scope="session")
def found():
    """The verdicts of this session, by architecture."""
    return {}


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")  # of libraries that only read what we write
@pytest.mark.parametrize("name", ARCHITECTURES, ids=lambda name: f"{name}-")
def test_an_architecture_comes_as_far_as_the_document_says(
    name, tmp_path, readers, found, pytestconfig
):
    readers("torch")
    verdict, reason = verdict_of(name, tmp_path)
    print(f"{name}: {verdict} {reason}")
    found[name] = verdict
    if not pytestconfig.getoption("--write-models"):
        assert recorded().get(name) == verdict, reason


@pytest.mark.real
def test_the_document_is_written_when_asked(found, pytestconfig):
    if pytestconfig.getoption("--write-models"):
        assert found.keys() == ARCHITECTURES.keys()
        DOCUMENT.write_text(rendered(found), encoding="utf-8")


def test_the_document_has_a_row_for_each_architecture():
    assert DOCUMENT.read_text(encoding="utf-8") == rendered(recorded())
    assert list(recorded()) == list(ARCHITECTURES)
    assert list(recorded().values()).count("proven") >= FEWEST_PROVEN


def test_what_is_missing_is_named_where_something_is():
    missing = {name for name, each in ARCHITECTURES.items() if each.missing}
    assert missing == {name for name, verdict in recorded().items() if verdict != "proven"}


def test_the_architectures_that_need_no_warning_are_those_of_the_document():
    assert recorded().keys() == IN_THE_TABLE
