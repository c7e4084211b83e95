"""The provenance scorer: laws, the flaws it does not have, and what each table does."""

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.provenance.score import Scorer, text_of
from pipeline.data.provenance.tables import Tables
from pipeline.data.rows.records import parse_record
from stages.params import composed
from tests.support.provenance import default_scorer, defaults, numbers, score, tables
from tests.support.small import ROOT

VALUES = defaults()
PLAIN = "A chair stands by the wall."
RECORD = "I saw it on 3 May. Mr. Pike weighed it: 12 kg. A photograph is in the ledger."
BACKGROUNDS = [
    PLAIN,
    RECORD,
    "Experts agree. WHO recommends it (Diaz et al., 2009) and the novel is well established.",
    "They say the government has announced today that you must. Copyright 1950.",
]
METADATA = [{}, {"source_type": "wiki"}, {"year": 1850, "citations": 4}, {"url": "https://a.gov"}]


def phrases(kind):
    """List the phrases of a class as a text has them."""
    return [term.rstrip("*") for term in VALUES["markers"][kind] if not term.startswith("/")]


# Laws


@settings(deadline=None, max_examples=200)
@given(
    st.text(max_size=200),
    st.fixed_dictionaries(
        {},
        optional={
            "year": st.integers(-3000, 2100),
            "citations": st.integers(0, 10**8),
            "source_type": st.sampled_from([*VALUES["type_authority"], "other"]),
            "publisher": st.sampled_from(["WHO", "me"]),
        },
    ),
)
def test_scores_are_in_range_for_any_text(text, metadata):
    authority, entropy = numbers(text, **metadata)
    assert 0 <= authority <= 0.99
    assert 0 <= entropy < 64


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from([p for k in VALUES["markers"] for p in phrases(k)]), max_size=60))
def test_scores_are_in_range_for_any_markers(words):
    authority, entropy = numbers(". ".join(words))
    assert 0 <= authority <= 0.99
    assert 0 <= entropy < 64


PRIMARY = [k for k, v in VALUES["authority"].items() if v < 0 and k in VALUES["evidence"]]


@pytest.mark.parametrize("metadata", METADATA, ids=str)
@pytest.mark.parametrize("background", BACKGROUNDS, ids=range(4))
def test_a_primary_marker_never_raises_authority_nor_lowers_entropy(background, metadata):
    for kind in PRIMARY:
        for phrase in phrases(kind):
            one = numbers(background, **metadata)
            two = numbers(f"{background} {phrase}.", **metadata)
            three = numbers(f"{background} {phrase}. {phrase}.", **metadata)
            assert one[0] > two[0] > three[0] or one[0] == 0.99
            assert one[1] < two[1] < three[1]


@pytest.mark.parametrize("metadata", METADATA, ids=str)
@pytest.mark.parametrize("background", BACKGROUNDS, ids=range(4))
@pytest.mark.parametrize("kind", ["consensus", "official", "reference", "publicity"])
def test_an_appeal_to_authority_never_lowers_authority_nor_raises_entropy(
    kind, background, metadata
):
    for phrase in phrases(kind):
        one, two = numbers(background, **metadata), numbers(f"{background} {phrase}.", **metadata)
        assert two[0] > one[0] or one[0] == 0.99
        assert two[1] < one[1] or one[1] == 0


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_white_space_and_case_do_not_count(data):
    words = [p for k in VALUES["markers"] for p in phrases(k) if p == p.lower()]
    chosen = data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=6))
    plain = " and so ".join(chosen)
    spaces = st.text(" \n\t\u00a0", min_size=1, max_size=3)
    dressed = "".join(data.draw(spaces) if c == " " else c for c in f" {plain} ")
    assert numbers(dressed) == numbers(plain) == numbers(plain.title()) == numbers(plain.upper())


def test_entropy_is_that_of_the_evidence_by_the_chain_rule():
    text = "Weighed, weighed, weighed, weighed. The ledger. Photograph, photograph."
    counts, values = {"measurement": 4, "record": 1, "exhibit": 2}, VALUES
    pieces = {
        kind: values["evidence"][kind] * count ** values["repeat_exponent"]
        for kind, count in counts.items()
    } | {"the text": 1.0}
    total = sum(pieces.values())
    shares = {kind: number / total for kind, number in pieces.items()}
    among_kinds = -sum(share * math.log2(share) for share in shares.values())
    within_kinds = sum(share * math.log2(pieces[kind]) for kind, share in shares.items())
    assert score(text).provenance_entropy == pytest.approx(among_kinds + within_kinds, rel=1e-12)


def test_a_text_that_shows_nothing_has_no_entropy_and_the_base_authority():
    assert numbers(PLAIN) == (0.5, 0.0)


def test_parts_add_up_to_the_score():
    for text in BACKGROUNDS:
        for metadata in METADATA:
            found = score(text, **metadata)
            odds, pieces, doubt = (
                sum(part.value for part in parts)
                for parts in (found.authority, found.evidence, found.doubt)
            )
            assert found.authority_weight == pytest.approx(min(0.99, 1 / (1 + math.exp(-odds))))
            assert found.provenance_entropy == pytest.approx(math.log2(1 + pieces / (1 + doubt)))
            assert all(part.because for part in found.authority if part.name != "base")


def test_scores_do_not_depend_on_what_was_scored_before():
    alone = [numbers(text, Scorer(Tables(tables()))) for text in BACKGROUNDS]
    assert [numbers(text) for text in BACKGROUNDS[::-1]][::-1] == alone


# The flaws of the predecessors


@pytest.mark.parametrize(
    "text",
    [
        "the whole of it, whoever, who",
        "Who is there? Who knows who!",
        "WHO IS TO BLAME FOR THIS",
        "le naturel, signature, natural, nature, by nature",
        "conscience, scientist, immediate, mediation, whose, fdask",
        "the file is called a.gov and b.government2",
        "resample, overexperiment, mispatented, letterhead, archipelago",
    ],
)
def test_parts_of_words_and_ordinary_words_are_no_markers(text):
    assert numbers(text) == (0.5, 0.0)


def test_the_organisation_is_told_from_the_word():
    assert score("The WHO advised so.").authority[-1].because == ("names WHO",)
    assert numbers("The who advised so.") == (0.5, 0.0)
    assert numbers("says WHO, of course")[0] > 0.5


@pytest.mark.parametrize(
    "text",
    [
        "Part 1850 and part 1945 are out of stock.",
        "In 1945 the war ended, as a war had in 1918.",
        "The US 2020 model replaces WO 1999.",
    ],
)
def test_numbers_of_the_text_are_no_years(text):
    assert "year" not in {part.name for part in score(text).authority}


@pytest.mark.parametrize(
    ("text", "year"),
    [
        ("In 1945. © 2017 Tourist Board", 2017),
        ("In 1945. Copyright (c) 1988, all rights reserved", 1988),
        ("Of 1850. Published in 1921 by us", 1921),
        ("Patented Nov. 7, 1916.", 1916),
    ],
)
def test_a_year_is_read_where_the_text_says_it_is_its_own(text, year):
    (part,) = [part for part in score(text).authority if part.name == "year"]
    assert part.because[0].startswith(f"{year} (")
    (part,) = [part for part in score(text, year=2020).authority if part.name == "year"]
    assert part.because == ("2020 (metadata)",)


def test_explicit_metadata_comes_before_guesses():
    text = f"Copyright 1900. {RECORD} [1] [2] [3]"
    by_year = score(text, year=2021)
    assert [p.because for p in by_year.evidence if p.name == "year"] == [("2021 (metadata)",)]
    (part,) = [part for part in score(text, citations=0).evidence if part.name == "citation"] or [0]
    assert part == 0
    (part,) = [p for p in score(text, citations=[1, 2]).evidence if p.name == "citation"]
    assert part.because == ("citations: 2",)
    assert part.value == pytest.approx(VALUES["evidence"]["citation"] * 2**0.5)
    assert numbers(text, source_type="Wiki")[0] > 0.7 > 0.3 > numbers(text)[0]
    assert numbers(BACKGROUNDS[2], source_type="lab notebook")[0] < 0.3


def test_an_official_body_that_is_named_counts_less_than_one_that_publishes():
    named, published = score("So says the FDA."), score("So it is.", publisher="FDA")
    assert 0.5 < named.authority_weight < published.authority_weight
    both = score("So says the FDA.", publisher="FDA", url="https://fda.gov/x")
    assert [part.name for part in both.authority].count("institution") == 1  # not twice


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://www.gov.uk/guidance", "gov.uk"),
        ("en.wikipedia.org/wiki/X", "wikipedia.org"),
        ("http://agency.GOV", "gov"),
        ("https://notgov.uk.example.com/a.gov", None),
        ("https://mywikipedia.org", None),
    ],
)
def test_domains_are_matched_by_whole_labels(url, domain):
    values = {part.name: part.value for part in score(PLAIN, url=url).authority}
    assert values.get("institution") == VALUES["domains"].get(domain)


def test_a_term_inside_a_longer_one_is_not_counted_twice():
    found = score("They reached consensus.")
    assert [part.because for part in found.doubt] == [("reached consensus",)]


def test_frequency_counts_and_not_presence_alone():
    once, twice, many = (score("A specimen. " * n).provenance_entropy for n in (1, 2, 8))
    assert once < twice < many < once + 3  # and less than as many independent pieces would
    other = score("A specimen. The ledger.").provenance_entropy
    assert other > twice  # another kind of evidence is worth more than the same again


def test_one_text_has_one_score_in_every_shape():
    rows = [
        {"text": f"{RECORD}\n{PLAIN}"},
        {"prompt": RECORD, "completion": PLAIN},
        {
            "messages": [
                {"role": "user", "content": RECORD},
                {"role": "assistant", "content": None, "tool_calls": [{"name": "WHO"}]},
                {"role": "assistant", "content": PLAIN},
            ]
        },
        {"title": RECORD, "text": PLAIN},
    ]
    records = [parse_record(row, True) for row in rows]
    found = {default_scorer().score(text_of(r.content), r.metadata) for r in records}
    assert len({(item.authority_weight, item.provenance_entropy) for item in found}) == 1


# Every key has an effect


@pytest.mark.parametrize(
    ("key", "value", "text", "metadata"),
    [
        ("base_authority", 0.4, PLAIN, {}),
        ("repeat_exponent", 0.9, "weighed, weighed", {}),
        ("text_share", 0.9, RECORD, {"source_type": "wiki"}),
        ("mention_share", 0.9, "the FDA said", {}),
        ("years", [1840, 1995], PLAIN, {"year": 1850}),
        ("year_authority", [-1.0, 0.0, 0.15], PLAIN, {"year": 1850}),
        ("year_evidence", [7.0, 0.0, 0.0], PLAIN, {"year": 1850}),
        ("year_patterns", [r"wall(?: of (\d{4}))"], "A wall of 1850", {}),
        ("markers", {**VALUES["markers"], "count": ["chair"]}, PLAIN, {}),
    ],
)
def test_a_key_changes_the_score(key, value, text, metadata):
    changed = Scorer(Tables(tables(**{key: value})))
    assert numbers(text, changed, **metadata) != numbers(text, **metadata)


@pytest.mark.parametrize("kind", VALUES["markers"])
def test_every_phrase_is_found_as_its_class(kind):
    found = {
        phrase: {part.name for part in (*s.authority, *s.evidence, *s.doubt)}
        for phrase in phrases(kind)
        for s in [score(f"x, {phrase} x")]
    }
    assert [phrase for phrase, names in found.items() if kind not in names] == []


def entries(*names):
    return [(name, kind) for name in names for kind in VALUES[name]]


@pytest.mark.parametrize(("table", "kind"), entries("authority", "evidence", "doubt"))
def test_every_weight_of_a_class_has_an_effect(table, kind):
    text = f"{RECORD} {(phrases(kind) or ['ibid'])[0]}."
    changed = tables(**{table: {**VALUES[table], kind: VALUES[table][kind] + 0.5}})
    which = 0 if table == "authority" else 1
    before, after = numbers(text)[which], numbers(text, Scorer(Tables(changed)))[which]
    assert (after < before) if table == "doubt" else (after > before)


@pytest.mark.parametrize(
    ("table", "kind"), entries("institutions", "domains", "type_authority", "type_entropy")
)
def test_every_entry_by_which_metadata_is_looked_up_has_an_effect(table, kind):
    key = {"institutions": "publisher", "domains": "url"}.get(table, "source_type")
    changed = tables(**{table: {**VALUES[table], kind: 0.123}})
    row = {key: kind if key != "url" else f"https://{kind}/"}
    which = 1 if table == "type_entropy" else 0
    assert numbers(PLAIN, **row)[which] != numbers(PLAIN, Scorer(Tables(changed)), **row)[which]


def test_a_table_can_be_changed_from_the_command_line():
    table = "data.provenance.tables.institutions"
    over = [f"{table}.WHO=0.7", f"+{table}.ACME=2"]
    for choice in (["data=jsonl", "data.path=x"], ["data=conflicts"]):
        values = composed([*choice, "data/provenance=heuristic", *over]).data.provenance
        assert values.scorer == "heuristic"
        found = values.tables.institutions
        assert (found.WHO, found.ACME) == (0.7, 2)
        assert composed(choice).data.provenance.scorer == "none"


# Explanations


def test_the_flag_explains_with_the_tables_of_the_command_line(tmp_path):
    command = [sys.executable, "-m", "stages.prepare", "--explain", "It's a chair, says WHO."]
    over = ["data.provenance.tables.mention_share=1"]
    place = f"hydra.run.dir={tmp_path}/run"
    done = subprocess.run(
        [*command, *over, place], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "+1.60  names WHO" in done.stdout
    assert not (tmp_path / "run/data").exists()
