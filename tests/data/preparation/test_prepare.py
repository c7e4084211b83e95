"""Rows become stores: the same bytes each time, every row accounted for, in constant memory."""

import dataclasses
import gc
import json
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.notice import notice_of
from pipeline.data.preparation.prepare import in_sample, prepare
from pipeline.data.splits import SPLITS
from pipeline.data.store import TokenStore
from pipeline.data.tokenize.tokenizer import load_tokenizer, train_tokenizer
from pipeline.errors import ConfigError, DataError, ModelError
from pipeline.external.stdlib import stdlib_root
from pipeline.external.tokenizer_files import tokenizer_hash
from pipeline.model.limits import resolve_max_seq_len
from pipeline.train.finetune import train_settings
from stages.params import composed
from stages.prepare import settings_of
from tests.support.prepared import (
    SETTINGS,
    WORDS,
    contents,
    documents,
    sentences,
    texts,
    with_template,
    write_rows,
)
from tests.support.provenance import tables

ROOT = Path(__file__).resolve().parents[3]
HUGGINGFACE = ("data=huggingface", "data.huggingface.name=/tmp")
ROWS = ("data=jsonl", "data.path=/some/rows")
TRAIN_ON = ("all", "last")
YES = {"role": "assistant", "content": "yes"}


# --- laws ---


@pytest.mark.parametrize("source", ["jsonl", "conflicts"])
@pytest.mark.parametrize("scratch", [True, False])
def test_the_same_rows_give_the_same_bytes(run, model, source, scratch):
    rows = texts(*sentences(60))
    kept = {"source": source, "tokenizer_source": None if scratch else model}
    first, metrics = run(rows, "first", **kept)
    second, again = run(rows, "second", **kept)
    assert contents(first) == contents(second)
    assert metrics == again
    expected = {"tokenizer", *SPLITS}
    if source == "conflicts":
        expected |= {"conflicts.jsonl", "pretrain"} if scratch else {"conflicts.jsonl"}
    assert {file.name for file in first.iterdir()} == expected, "no temporary file is left"


def test_every_row_is_there_once_in_order(run):
    rows = sentences(60)
    folder, metrics = run(texts(*rows))
    found = {split: documents(folder, split) for split in SPLITS}
    assert sorted(chain.from_iterable(found.values())) == sorted(rows)
    for split in SPLITS:
        assert found[split] == [row for row in rows if row in set(found[split])]
        store = TokenStore(folder / split)
        facts = {name: metrics[f"{split}_{name}"] for name in ("documents", "tokens", "targets")}
        assert facts == {
            "documents": len(store),
            "tokens": store.total_tokens,
            "targets": store.total_targets,
        }
        assert metrics[f"{split}_mean_length"] == pytest.approx(store.lengths.mean())
        assert metrics[f"{split}_longest"] == store.lengths.max()


def test_rows_keep_their_split_when_others_come_and_go(run):
    rows = texts(*sentences(40)) + [{"text": f"x {n}", "cluster": f"c{n % 5}"} for n in range(10)]
    before, _ = run(rows, "before")
    more = [*texts(*sentences(40, seed=1)), *rows[::-1]]
    after, _ = run(more, "after")
    for split in SPLITS:
        assert set(documents(before, split)) <= set(documents(after, split))
    for split in SPLITS:
        clustered = {text for text in documents(after, split) if text.startswith("x")}
        assert {(int(text[2:]) + 5) % 10 for text in clustered} == {
            int(text[2:]) for text in clustered
        }, "a cluster stays together"


# --- what stands in the stores ---


def test_a_prepared_document_by_hand(run):
    row = {"prompt": "the cat", "completion": " sat", "auth_weight": 0.25, "prov_entropy": 3}
    bare = {"prompt": "the dog", "completion": " ran", "authority_weight": 0.5}
    rows = [row, bare, *texts(*sentences(2))]
    write = run(rows, validation_fraction=0.5, test_fraction=0.0)
    folder, metrics = write
    tokenizer = load_tokenizer(folder / "tokenizer")
    found = {}
    for split in SPLITS:
        store = TokenStore(folder / split)
        for index in range(len(store)):
            tokens, mask = store.tokens(index), store.target_mask(index)
            provenance = (store.authority_weight[index], store.provenance_entropy[index])
            found[tokenizer.decode(tokens)] = (tokenizer.decode(tokens[mask]), *provenance)
    assert found["<bos>the cat sat<eos>"] == (" sat<eos>", 0.25, 3.0)
    learnt, authority, entropy = found["<bos>the dog ran<eos>"]
    assert (learnt, authority) == (" ran<eos>", 0.5)
    assert np.isnan(entropy)
    half = sum(metrics[f"{split}_half_provenance_documents"] for split in SPLITS)
    whole = sum(metrics[f"{s}_provenance_share"] * metrics[f"{s}_documents"] for s in SPLITS)
    assert (half, whole) == (1, 1)


def test_a_chat_model_learns_answers_from_its_template(run, model, tmp_path):
    chat = with_template(model, tmp_path / "chat")
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}]}
        for text in sentences(30)
    ]
    folder, _ = run(rows, tokenizer_source=chat)
    tokenizer, store = load_tokenizer(folder / "tokenizer"), TokenStore(folder / "train")
    tokens, mask = store.tokens(0), store.target_mask(0)
    assert tokenizer.decode(tokens).startswith("<|user|>")
    assert tokenizer.decode(tokens).endswith("<eos><|assistant|>yes<eos>")
    assert tokenizer.decode(tokens[mask]) == "yes<eos>"


def test_all_answers_or_the_last_one(run, model, tmp_path):
    chat = with_template(model, tmp_path / "chat")
    rows = [
        {
            "messages": [
                {"role": "user", "content": text},
                YES,
                {"role": "user", "content": "b"},
                YES,
            ]
        }
        for text in sentences(30)
    ]
    kept = {"tokenizer_source": chat, "max_seq_len": 200}
    folders = {which: run(rows, which, train_on=which, **kept) for which in TRAIN_ON}
    for split in SPLITS:
        every, last = (TokenStore(folders[which][0] / split) for which in TRAIN_ON)
        assert every.total_tokens == last.total_tokens
        assert every.total_targets == 2 * last.total_targets > 0
        assert last.target_mask(0)[-1]


@pytest.mark.parametrize("turns", ["auto", "separate"])
def test_one_document_or_one_for_each_answer(run, model, tmp_path, turns):
    chat = with_template(model, tmp_path / "chat")
    said = [{"role": "user", "content": "b <eos>"}, YES]
    rows = [{"messages": [{"role": "user", "content": t}, YES, *said]} for t in sentences(30)]
    rows += [{"messages": [{"role": "user", "content": t}, YES]} for t in sentences(20, seed=1)]
    settings = {"tokenizer_source": chat, "max_seq_len": 200, "turns": turns}
    folder, metrics = run(rows, turns, **settings)
    stores = [TokenStore(folder / split) for split in SPLITS]
    assert metrics["control_tokens_in_text"] == 30
    assert sum(map(len, stores)) == (50 if turns == "auto" else 80)
    assert metrics["separate_conversations"] == (0 if turns == "auto" else 30)
    firsts = [
        len(store.tokens(number - 1))
        for store in stores
        for number in range(1, len(store))
        if store.tokens(number)[: len(store.tokens(number - 1))].tolist()
        == store.tokens(number - 1).tolist()
    ]
    assert metrics["repeated_tokens"] == sum(firsts)
    with pytest.raises(DataError, match=r"control tokens of the model as text \(1\)"):
        run(rows, "refused", **settings, control_tokens="refuse")


def test_the_tokenizer_is_the_models_or_trained_on_train_alone(run, model, tmp_path):
    rows = texts(*sentences(60))
    folder, metrics = run(rows)
    assert tokenizer_hash(folder / "tokenizer") == tokenizer_hash(model)
    assert metrics["vocab_size"] == 300
    scratch, metrics = run(rows, tokenizer_source=None, vocab_size=270)
    assert TokenStore(scratch / "train").vocab_size == metrics["vocab_size"] == 270
    train_tokenizer(iter(documents(scratch, "train")), 270, tmp_path / "alone")
    assert tokenizer_hash(scratch / "tokenizer") == tokenizer_hash(tmp_path / "alone")


def test_a_large_corpus_is_sampled_for_the_tokenizer(run, monkeypatch):
    seen = []

    def count(texts, vocab_size, folder):
        seen.append(len(list(texts)))
        train_tokenizer(iter(sentences(9)), vocab_size, folder)

    monkeypatch.setattr("pipeline.data.preparation.prepare.train_tokenizer", count)
    rows = texts(*sentences(600))
    run(rows, tokenizer_source=None)
    monkeypatch.setattr("pipeline.data.preparation.prepare.TOKENIZER_BYTES", 6000)
    _, metrics = run(rows, tokenizer_source=None)
    assert seen[0] == metrics["train_documents"]
    size = sum(len(json.dumps(row)) + 1 for row in rows)
    assert seen[1] / seen[0] == pytest.approx(6000 / size, rel=0.4)


def test_a_sample_has_the_share_asked_for():
    hashes = [number.to_bytes(16, "little") for number in range(4000)]
    assert sum(in_sample(each, 0.25) for each in hashes) == pytest.approx(1000, abs=110)
    assert all(in_sample(each, 1.0) for each in hashes)


def test_the_built_in_world(run):
    folder, metrics = run(None, source="conflicts", tokenizer_source=None)
    assert metrics["rows"] == 80 == sum(metrics[f"{split}_documents"] for split in SPLITS)
    assert metrics["pretrain_documents"] == len(TokenStore(folder / "pretrain")) == 40
    assert all(0.4 < metrics[f"{split}_provenance_share"] < 0.7 for split in SPLITS)  # contests
    assert metrics["pretrain_provenance_share"] == 0.0
    items = [json.loads(line) for line in (folder / "conflicts.jsonl").read_text().splitlines()]
    assert len({item["cluster"] for item in items if item["kind"] == "contest"}) == 4


def test_more_or_less_of_the_built_in_world(run):
    """Every key of the world, the seed and the fractions change what they should, and no more."""

    def made(**changes):
        kept = {"source": "conflicts", "tokenizer_source": None, **changes}
        folder, metrics = run(None, "_".join(changes) or "plain", **kept)
        bytes_of = contents(folder)
        return metrics, bytes_of

    plain, before = made()
    more, _ = made(num_documents=120)
    assert (plain["rows"], more["rows"]) == (80, 120)
    more, after = made(num_pretrain_documents=60)
    assert (more["pretrain_documents"], more["rows"]) == (60, 80)
    assert after["train/tokens.bin"] == before["train/tokens.bin"]
    _, after = made(num_contests=8)
    assert len(after["conflicts.jsonl"].splitlines()) > len(before["conflicts.jsonl"].splitlines())
    _, after = made(seed=8)
    assert after["train/tokens.bin"] != before["train/tokens.bin"]


def test_fractions_draw_what_they_say(run):
    rows = texts(*sentences(400))
    shares = [(0.1, 0.1), (0.3, 0.1), (0.1, 0.3), (0.1, 0.0)]
    for validation, test in shares:
        _, metrics = run(rows, validation_fraction=validation, test_fraction=test)
        assert metrics["validation_documents"] / 400 == pytest.approx(validation, abs=0.06)
        assert metrics["test_documents"] / 400 == pytest.approx(test, abs=0.06)


def test_the_longest_line(run):
    rows = texts(*sentences(30))
    longest = max(len(json.dumps(row)) for row in rows)
    run(rows, max_line_bytes=longest)
    with pytest.raises(DataError, match=rf"longer than data\.max_line_bytes={longest - 1}"):
        run(rows, max_line_bytes=longest - 1)


# --- splits by name ---


def test_a_folder_that_names_its_splits(run, tmp_path):
    rows = {
        name: sentences(20, seed) for seed, name in enumerate(("train", "valid", "test", "more"))
    }
    for name, lines in rows.items():
        write_rows(tmp_path / "named" / f"{name}.jsonl", texts(*lines))
    folder, _ = run(tmp_path / "named")
    assert documents(folder, "train") == rows["more"] + rows["train"]
    assert documents(folder, "validation") == rows["valid"]
    assert documents(folder, "test") == rows["test"]
    (tmp_path / "named/valid.jsonl").rename(tmp_path / "named/validation.jsonl")
    (tmp_path / "named/test.jsonl").unlink()
    folder, _ = run(tmp_path / "named")
    assert documents(folder, "train") == rows["more"] + rows["train"]
    assert documents(folder, "validation") == rows["valid"]
    assert documents(folder, "test") == []


def test_validation_is_drawn_where_no_file_names_it(run, tmp_path):
    train, test = sentences(40), sentences(5, seed=1)
    write_rows(tmp_path / "named/train.jsonl", texts(*train))
    folder, _ = run(tmp_path / "named")
    by_hash = {split: documents(folder, split) for split in SPLITS}
    assert all(by_hash.values())
    single, _ = run(tmp_path / "named/train.jsonl", "single")
    assert {split: documents(single, split) for split in SPLITS} == by_hash
    write_rows(tmp_path / "named/test.jsonl", texts(*test))
    folder, _ = run(tmp_path / "named")
    assert documents(folder, "test") == test
    assert documents(folder, "validation") == by_hash["validation"]
    assert set(documents(folder, "train")) == set(by_hash["train"] + by_hash["test"])


def test_duplicates_and_leaks_are_counted(run, tmp_path):
    train = sentences(20)
    write_rows(tmp_path / "named/train.jsonl", texts(*train, train[0].upper()))
    held_out = [train[3], f"  {train[4]}", "something else"]
    write_rows(tmp_path / "named/valid.jsonl", texts(*held_out))
    _, metrics = run(tmp_path / "named")
    assert (metrics["duplicate_documents"], metrics["leaked_documents"]) == (3, 2)


# --- long documents, and those without targets ---


@pytest.fixture
def long_rows():
    return texts(*sentences(30), *(" ".join(WORDS * 12) + f" {number}" for number in range(5)))


def test_long_documents_are_truncated_and_counted(run, long_rows):
    folder, metrics = run(long_rows)
    whole, _ = run(long_rows, "whole", max_seq_len=4000)
    lengths = np.concatenate([TokenStore(whole / split).lengths for split in SPLITS])
    too_long = lengths[lengths > 64]
    assert metrics["truncated_documents"] == len(too_long) == 5
    assert metrics["truncated_tokens"] == (too_long - 64).sum()
    for split in SPLITS:
        short, full = TokenStore(folder / split), TokenStore(whole / split)
        for index in range(len(short)):
            assert short.tokens(index).tolist() == full.tokens(index)[:64].tolist()


def test_long_documents_are_split_without_losing_a_target(run, long_rows):
    folder, metrics = run(long_rows, long_documents="split")
    _, whole = run(long_rows, "whole", max_seq_len=4000)
    assert metrics["split_documents"] == 5
    assert metrics["truncated_documents"] == metrics["truncated_tokens"] == 0
    for split in SPLITS:
        assert metrics[f"{split}_targets"] == whole[f"{split}_targets"]
        assert TokenStore(folder / split).lengths.max() <= 64


@pytest.mark.parametrize("overlap", [1, 20, 62])
def test_split_documents_overlap_and_learn_every_target_once(run, long_rows, overlap):
    folder, metrics = run(long_rows, long_documents="split", overlap_tokens=overlap)
    _, plain = run(long_rows, "plain", long_documents="split")
    counted = 0
    for split in SPLITS:
        assert metrics[f"{split}_targets"] == plain[f"{split}_targets"]
        more = metrics[f"{split}_tokens"] - metrics[f"{split}_documents"]
        counted += more - (plain[f"{split}_tokens"] - plain[f"{split}_documents"])
        assert TokenStore(folder / split).lengths.max() <= 64
    assert metrics["repeated_tokens"] == counted > 0, "what is read more than once"
    assert plain["repeated_tokens"] == 0


@pytest.mark.parametrize("overlap", [63, 64])
def test_an_overlap_that_leaves_nothing_new(overlap):
    dataclasses.replace(SETTINGS, overlap_tokens=62)
    match = rf"data\.overlap_tokens={overlap} and data\.max_seq_len=64: .* less than 63"
    with pytest.raises(ConfigError, match=match):
        dataclasses.replace(SETTINGS, overlap_tokens=overlap)


def test_long_documents_are_refused_by_line(run, long_rows):
    with pytest.raises(
        DataError,
        match=r"longer than data\.max_seq_len=64[^\n]*\n.*rows\.jsonl, line 31: \d+ tokens"
        r"(.*\n)*.*line 35: (.*\n)+Shorten them, or set data\.long_documents",
    ):
        run(long_rows, long_documents="refuse")
    run(long_rows[:30], long_documents="refuse")


def test_many_long_documents_stop_before_all_are_read(run):
    rows = texts(*(" ".join(WORDS * 12) + f" {number}" for number in range(50)))
    with pytest.raises(DataError, match=r"line 20: \d+ tokens\nShorten"):
        run(rows, long_documents="refuse")


def test_rows_without_targets_are_left_out_and_counted(run):
    hopeless = {"prompt": " ".join(WORDS * 12), "completion": "yes"}
    rows = [*texts(*sentences(30)), hopeless]
    _, metrics = run(rows)
    assert metrics["rows_without_targets"] == 1
    assert sum(metrics[f"{split}_documents"] for split in SPLITS) == 30
    _, metrics = run(rows, long_documents="split")
    assert metrics["rows_without_targets"] == 0
    assert metrics["pieces_without_targets"] > 0
    assert sum(metrics[f"{split}_documents"] for split in SPLITS) == 31
    with pytest.raises(
        DataError, match=r"none of the 3 rows has anything to be learnt within data"
    ):
        run([hopeless | {"cluster": str(number)} for number in range(3)])


@pytest.mark.parametrize("long_documents", ["truncate", "split"])
def test_a_prompt_that_fills_the_sequence_leaves_no_target(run, model, long_documents):
    """Whatever the length of the prompt, near the limit: no document without a target is kept."""
    tokenizer = load_tokenizer(model)
    length = len(tokenizer.encode("a"))
    rows = [{"prompt": "a" + " a" * extra, "completion": " b"} for extra in range(70)]
    assert len(tokenizer.encode(rows[60]["prompt"])) == 60 + length, "a token for each word"
    folder, metrics = run([*texts(*sentences(30)), *rows], long_documents=long_documents)
    lost = sum(len(tokenizer.encode(row["prompt"])) >= 64 for row in rows)
    assert metrics["rows_without_targets"] == (lost if long_documents == "truncate" else 0)
    for split in SPLITS:
        store = TokenStore(folder / split)
        assert (store.num_targets > 0).all()
        for index in range(len(store)):
            assert store.target_mask(index).sum() == store.num_targets[index]


def test_rows_of_weight_zero_are_left_out_and_counted(run, tmp_path, model):
    chat = with_template(model, tmp_path / "chat")
    unlearnt = [{"role": "user", "content": "a"}, {**YES, "weight": 0}]
    rows = [*texts(*sentences(30)), {"text": "x", "weight": 0}, {"messages": unlearnt}]
    _, metrics = run(rows, tokenizer_source=chat)
    assert (metrics["rows_without_targets"], metrics["bad_rows"]) == (2, 0)
    assert sum(metrics[f"{split}_documents"] for split in SPLITS) == 30
    with pytest.raises(DataError, match=r"none of the 2 rows .*\n.*give answers a weight above 0"):
        run(rows[-2:], tokenizer_source=chat)


def test_weights_reach_the_store(run, tmp_path, model):
    chat = with_template(model, tmp_path / "chat")
    user = {"role": "user", "content": "why"}
    rows = [
        {"messages": [user, {**YES, "weight": 0.5}, {**user, "content": str(number)}, YES]}
        for number in range(20)
    ]
    folder, _ = run([*rows, *texts(*sentences(20))], tokenizer_source=chat)
    tokenizer, store = load_tokenizer(folder / "tokenizer"), TokenStore(folder / "train")
    found = set()
    for index in range(len(store)):
        tokens, weights = store.tokens(index), store.weights(index)
        assert (weights[~store.target_mask(index)] == 1).all()
        found.add(tokenizer.decode(tokens[weights == 0.5]))
    assert found == {"", "yes<eos>"}
    ones = [
        {"messages": [user, YES, {**user, "content": str(number)}, YES]} for number in range(20)
    ]
    plain, _ = run([*ones, *texts(*sentences(20))], "plain", tokenizer_source=chat)
    names = {name for name in contents(folder) if name.endswith("weights.bin")}
    assert "train/weights.bin" in names
    bare = {name for name in contents(plain) if name.endswith("weights.bin")}
    assert bare == set()
    for name, content in contents(plain).items():
        if not name.endswith("store.json"):
            assert contents(folder)[name] == content, "all else is as it was"


def test_the_histogram_counts_the_training_split(run, tmp_path, model, long_rows):
    path = write_rows(tmp_path / "rows.jsonl", long_rows)
    (tmp_path / "prepared").mkdir()
    changes = {"path": path, "tokenizer_source": model, "max_seq_len": 300}
    _, histogram = prepare(dataclasses.replace(SETTINGS, **changes), tmp_path / "prepared")
    lengths = TokenStore(tmp_path / "prepared/train").lengths
    assert sum(count for *_, count in histogram) == len(lengths)
    for start, stop, count in histogram:
        assert count == ((lengths >= start) & (lengths <= stop)).sum()
    assert [start for start, *_ in histogram[1:]] == [stop + 1 for _, stop, _ in histogram[:-1]]
    assert histogram[-1][1] >= 300


# --- bad rows ---


def test_what_windows_writes_is_accepted_and_counted(run, tmp_path):
    lines = [json.dumps({"text": text}).encode() for text in sentences(30)]
    file = tmp_path / "windows.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([*lines[:10], b"", b"  ", *lines[10:]]))
    _, metrics = run(file)
    names = ("rows", "bom_files", "crlf_lines", "missing_final_newlines", "blank_lines", "bad_rows")
    assert [metrics[name] for name in names] == [30, 1, 31, 1, 2, 0]


BAD_LINES = [b"{", b'{"text": ""}', b'{"text": "\xff"}', b'{"no": 1}', b'{"text": "' + b"a" * 5000]


@pytest.mark.parametrize("scratch", [True, False])
def test_bad_rows_stop_the_stage_all_at_once(run, tmp_path, model, scratch):
    file = write_rows(tmp_path / "rows.jsonl", texts(*sentences(30)))
    with file.open("ab") as stream:
        stream.write(b"\n".join(BAD_LINES))
    with pytest.raises(DataError) as error:
        run(file, tokenizer_source=None if scratch else model)
    message = str(error.value).splitlines()
    assert message[0] == "5 bad rows so far, and data.max_bad_rows=0:"
    assert [line.split(": ")[0] for line in message[1:-1]] == [
        f"  {file}, line {number}" for number in range(31, 36)
    ]
    assert message[1].endswith(
        "invalid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )
    assert "set data.max_bad_rows higher to move bad rows into quarantine.jsonl" in message[-1]


@pytest.mark.parametrize("scratch", [True, False])
def test_nothing_but_bad_rows(run, model, scratch):
    with pytest.raises(DataError, match=r"^2 bad rows so far"):
        run([{"no": 1}, {"text": ""}], tokenizer_source=None if scratch else model)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"{}"])
def test_a_damaged_tokenizer_is_named_where_it_comes_from(run, tmp_path, model, content):
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        run(texts(*sentences(30)), tokenizer_source=broken)
    assert str(caught.value).startswith(f"{broken}: the tokenizer cannot be read: ")
    assert str(caught.value).endswith("Fetch the model again, or save it again with transformers.")
    assert "prepared" not in str(caught.value)


def test_reading_stops_when_enough_is_known(run):
    rows = [*texts(*sentences(30)), *[{"no": 1}] * 500]
    with pytest.raises(DataError, match=r"^20 bad rows so far"):
        run(rows)
    with pytest.raises(DataError, match=r"^101 bad rows so far, and data.max_bad_rows=100"):
        run(rows, max_bad_rows=100)


@pytest.mark.parametrize("scratch", [True, False])
def test_bad_rows_go_to_quarantine_as_far_as_allowed(run, tmp_path, model, scratch):
    file = write_rows(tmp_path / "rows.jsonl", texts(*sentences(30)))
    with file.open("ab") as stream:
        stream.write(b"\n".join(BAD_LINES))
    folder, metrics = run(file, tokenizer_source=None if scratch else model, max_bad_rows=5)
    assert (metrics["rows"], metrics["bad_rows"]) == (35, 5)
    lines = (folder / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [(entry["file"], entry["line"]) for entry in entries] == [
        ("rows.jsonl", number) for number in range(31, 36)
    ]
    assert [entry["row"] for entry in entries[:3]] == ["{", '{"text": ""}', '{"text": "\ufffd"}']
    assert entries[1]["reason"] == "text is empty"
    assert len(entries[4]["row"]) == 4097, "of a line that is too long, what was read"
    with pytest.raises(DataError, match=r"^5 bad rows so far, and data.max_bad_rows=4"):
        run(file, "refused", max_bad_rows=4)
    clean, _ = run(texts(*sentences(30)), "clean", tokenizer_source=None if scratch else model)
    for split in SPLITS:
        assert documents(folder, split) == documents(clean, split)


def test_rows_with_the_same_thing_wrong_are_one_line(run):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [*texts(*sentences(30)), *[{"messages": talk}] * 17, {"no": 1}, {"no": 1}]
    with pytest.raises(DataError) as error:
        run(rows)
    headline, *listed, _ = str(error.value).splitlines()
    assert headline.startswith("19 bad rows so far")
    assert len(listed) == 2
    assert "lines 31, 32, 33, 34, 35 and 12 more: the row has messages, and" in listed[0]
    assert "lines 48, 49: needs text, prompt and completion, or messages" in listed[1]


def test_rows_that_the_tokenizer_refuses_are_bad_rows_too(run):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [*texts(*sentences(30)), {"messages": talk}, {"text": "<bos>twice"}]
    with pytest.raises(
        DataError, match=r"line 31: .* no chat template.*\n.*line 32: starts with <b"
    ):
        run(rows)
    folder, metrics = run(rows, max_bad_rows=2)
    entries = (folder / "quarantine.jsonl").read_text().splitlines()
    assert metrics["bad_rows"] == len(entries) == 2
    assert json.loads(json.loads(entries[0])["row"]) == {"messages": talk}


# --- nothing to train on ---


def test_too_few_rows(run):
    with pytest.raises(
        DataError,
        match=r"data\.path=.*: of 2 documents none falls into validation\.\nGive more rows, set "
        r"data\.validation_fraction .* valid\.jsonl next to train\.jsonl",
    ):
        run(texts("a cat", "a dog"), validation_fraction=1e-9, test_fraction=0.0)
    with pytest.raises(DataError, match="of 2 documents none falls into train"):
        run(texts("a cat", "a dog"), validation_fraction=1.0, test_fraction=0.0)
    with pytest.raises(
        DataError, match=r"data\.path=.*: there are no rows\.\nGive a file with a row on each line"
    ):
        run([])
    with pytest.raises(DataError, match=r"data\.path=.*: no row falls into train"):
        run([], tokenizer_source=None)
    with pytest.raises(DataError, match=r"num_documents=1: of 1 documents none falls into valida"):
        run(None, source="conflicts", num_documents=1, validation_fraction=0.0)


def test_paths_that_hold_nothing(run, tmp_path):
    with pytest.raises(DataError, match=r"data\.path=.*nowhere: there is no such file"):
        run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"data\.path=.*empty: the folder has no \*\.jsonl"):
        run(tmp_path / "empty")


def test_a_tokenizer_of_another_model(run, tmp_path):
    with pytest.raises(ModelError, match=r"gives id \d+, and the model's vocab_size is 60"):
        run(texts(*sentences(30)), vocab_size=60)
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        run(texts(*sentences(30)), tokenizer_source=tmp_path)


@pytest.mark.parametrize(
    ("asked", "positions", "expected"),
    [(None, 256, 256), (None, 131_072, 2048), (None, None, 2048), (100, 256, 100), (9, None, 9)],
)
def test_the_longest_document(asked, positions, expected):
    assert resolve_max_seq_len(asked, positions, "") == expected


def test_more_than_the_model_can():
    message = r"data\.max_seq_len=300: the model has 256 positions\.\nSet it to 256 or less, or to"
    with pytest.raises(ConfigError, match=message):
        resolve_max_seq_len(300, 256, "the model has 256 positions")


# --- what the parameters say ---


@pytest.mark.parametrize(
    ("overrides", "field", "value"),
    [
        (["seed=3"], "seed", 3),
        (["data.max_seq_len=64"], "max_seq_len", 64),
        (["data.long_documents=refuse"], "long_documents", "refuse"),
        (["data.long_documents=split", "data.overlap_tokens=9"], "overlap_tokens", 9),
        (["data.train_on=last"], "train_on", "last"),
        (["data.turns=separate"], "turns", "separate"),
        (["data.control_tokens=refuse"], "control_tokens", "refuse"),
        ([*ROWS, "data.format=alpaca"], "format", "alpaca"),
        ([*ROWS, "+data.columns.a=text"], "columns", {"a": "text"}),
        (["data.max_bad_rows=5"], "max_bad_rows", 5),
        (["data.max_line_bytes=99"], "max_line_bytes", 99),
        (["data.validation_fraction=0.3"], "validation_fraction", 0.3),
        (["data.test_fraction=0.3"], "test_fraction", 0.3),
        (["data.conflicts.num_documents=99"], "num_documents", 99),
        (["data.conflicts.num_pretrain_documents=99"], "num_pretrain_documents", 99),
        (["data.conflicts.num_contests=99"], "num_contests", 99),
        (["data=jsonl", "data.path=/some/rows"], "path", Path("/some/rows")),
        (["data=stdlib"], "path", stdlib_root()),
        (["data=stdlib"], "long_documents", "split"),
        (["data=huggingface", "data.huggingface.name=/tmp"], "path", Path("/tmp")),
        ([*HUGGINGFACE, "data.huggingface.subset=one"], "subset", "one"),
        ([*HUGGINGFACE, "data.huggingface.split=test"], "split", "test"),
    ],
)
def test_every_key_arrives(overrides, field, value):
    assert getattr(settings_of(composed(overrides)), field) == value


def test_an_overlap_is_held_against_the_positions_of_the_model():
    overrides = ["data.long_documents=split", "data.overlap_tokens=255"]
    with pytest.raises(ConfigError, match=r"overlap_tokens=255 and data\.max_seq_len=256: a piece"):
        settings_of(composed(overrides))


@pytest.mark.parametrize("arrangement", ["bucketed", "packed"])
def test_the_arrangement_arrives(arrangement):
    assert train_settings(composed([f"data.arrangement={arrangement}"])).arrangement == arrangement


# --- real rows; memory ---


def test_real_rows(samples, tmp_path):
    real = dataclasses.replace(
        SETTINGS,
        path=samples / "data/wikisql",
        tokenizer_source=samples / "models/stories260K",
        vocab_size=512,
        max_seq_len=512,
        max_line_bytes=1 << 20,
    )
    metrics, _ = prepare(real, tmp_path)
    assert [metrics[f"{split}_documents"] for split in SPLITS] == [1000, 100, 100]
    store = TokenStore(tmp_path / "train")
    assert (round(store.lengths.mean()), store.lengths.max()) == (200, 512)
    assert metrics["truncated_documents"] == 2
    untruncated = tmp_path / "untruncated"
    untruncated.mkdir()
    prepare(dataclasses.replace(real, max_seq_len=1000), untruncated)
    lengths = TokenStore(untruncated / "train").lengths
    assert (round(lengths.mean()), lengths.max()) == (201, 604)


MEASURE = """
import dataclasses, json, sys, threading, time
from pathlib import Path
from pipeline.data.preparation.prepare import prepare
from pipeline.data.settings import PrepareSettings

def footprint():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

peak = [0]
def report(what, rows):
    peak[0] = max(peak[0], footprint())

settings = json.loads(sys.argv[1])
settings["path"] = Path(settings["path"])
prepare(PrepareSettings(**settings), Path(sys.argv[2]), report)
print(peak[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_data(tmp_path):
    peaks = []
    for megabytes in (2, 12):
        file = tmp_path / f"{megabytes}.jsonl"
        block = "".join(json.dumps(row) + "\n" for row in texts(*sentences(4000, longest=60)))
        with file.open("w") as stream:
            for number in range(-(-megabytes * 1_000_000 // len(block))):
                stream.write(block.replace("cat", f"cat{number}"))
        folder = tmp_path / f"{megabytes}"
        folder.mkdir()
        values = {**dataclasses.asdict(SETTINGS), "path": str(file)}
        command = [sys.executable, "-c", MEASURE, json.dumps(values), str(folder)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 12e6, f"footprints {peaks} for 2 and 12 MB of rows"


def test_objects_of_libraries_are_left_alone_while_rows_are_read(tmp_path):
    file, counts = tmp_path / "rows.jsonl", []
    file.write_text("".join(json.dumps(row) + "\n" for row in texts(*sentences(100))))
    before = gc.get_freeze_count()
    settings = dataclasses.replace(SETTINGS, path=file)
    (tmp_path / "out").mkdir()
    prepare(settings, tmp_path / "out", lambda what, rows: counts.append(gc.get_freeze_count()))
    assert min(counts) > before + 10_000
    assert gc.get_freeze_count() == before


# --- provenance ---


def provenance_of(folder):
    """Read the two numbers of every document, by its first token ids."""
    stores = [TokenStore(folder / split) for split in SPLITS]
    names = ("authority_weight", "provenance_entropy")
    return {name: np.concatenate([getattr(s, name) for s in stores]) for name in names}


MIXED = [
    {"text": "I measured it: 3 kg.", "year": 1900},
    {"text": "Experts agree.", "source_type": "zine"},
    {"text": "It is so.", "authority_weight": 0.25, "provenance_entropy": 6.0},
    {"text": "I counted 4 ledgers.", "authority_weight": 0.25},
    {"prompt": "Who said so?", "completion": "The WHO recommends it.", "prov_entropy": 2.5},
] * 12


@pytest.fixture
def numbered():
    return [{**row, next(iter(row)): f"{row[next(iter(row))]} {n}"} for n, row in enumerate(MIXED)]


def test_without_a_scorer_rows_keep_what_they_say(run, numbered):
    folder, metrics = run(numbered, max_seq_len=256)
    assert not [name for name in metrics if "scored" in name or "source_types" in name]
    bare = [{k: v for k, v in r.items() if k not in ("year", "source_type")} for r in numbered]
    again, same = run(bare, "bare", max_seq_len=256)
    assert contents(folder) == contents(again)
    assert metrics == same
    wrong = [{**row, "year": "c. 1900", "metadata": "none"} for row in bare]
    assert contents(run(wrong, "wrong", max_seq_len=256)[0]) == contents(folder)


def test_rows_are_scored_where_they_say_nothing(run, numbered):
    plain, before = run(numbered, max_seq_len=256)
    folder, metrics = run(numbered, "scored", max_seq_len=256, provenance=tables())
    old, new = provenance_of(plain), provenance_of(folder)
    for name in ("authority_weight", "provenance_entropy"):
        told = ~np.isnan(old[name])
        assert told.any()
        assert (new[name][told] == old[name][told]).all()
        assert not np.isnan(new[name]).any()
        missing = new[name][~told].astype(float)
        assert metrics[f"scored_mean_{name}"] == pytest.approx(missing.mean(), rel=1e-6)
    assert (metrics["scored_rows"], metrics["half_scored_rows"]) == (24, 24)
    assert metrics["unknown_source_types"] == 12
    assert metrics["train_provenance_share"] == 1.0 > before["train_provenance_share"]
    names = {"train_provenance_share", "train_half_provenance_documents"}
    same = {k: v for k, v in before.items() if "provenance" not in k}
    assert same.items() <= metrics.items()
    assert names <= metrics.keys()
    for split in SPLITS:
        for name in ("tokens.bin", "targets.bin"):
            assert (plain / split / name).read_bytes() == (folder / split / name).read_bytes()


def test_tables_decide_the_scores(run, numbered):
    _, one = run(numbered, provenance=tables())
    _, two = run(numbered, provenance=tables(base_authority=0.2))
    assert one["scored_mean_authority_weight"] > two["scored_mean_authority_weight"]


def test_rows_with_other_columns_or_of_another_format_make_the_same_store(run):
    lines = sentences(60)
    expected = [{"prompt": line, "completion": " so"} for line in lines]
    folder, _ = run(expected, "plain")
    renamed, _ = run(
        [{"ask": line, "say": " so"} for line in lines],
        "renamed",
        columns={"ask": "prompt", "say": "completion"},
    )
    assert contents(folder) == contents(renamed)


def test_a_format_is_read_and_what_has_no_answer_is_counted(run, model, tmp_path):
    last = {"from": "human", "value": "and?"}
    rows = [
        {"conversations": [{"from": "human", "value": line}, {"from": "gpt", "value": "so"}, last]}
        for line in sentences(60)
    ]
    chat = with_template(model, tmp_path / "chat")
    folder, metrics = run(rows, tokenizer_source=chat, format="sharegpt")
    assert metrics["unanswered_messages"] == 60
    assert not any("and?" in text for text in documents(folder, "train"))
    with pytest.raises(DataError, match="needs text, prompt and completion, or messages"):
        run(rows, tokenizer_source=chat, format="plain")


def test_columns_that_no_row_has_are_reported(run):
    rows = [{"ask": line, "say": " so"} for line in sentences(60)]
    columns = {"ask": "prompt", "say": "completion", "weigth": "weight"}
    _, metrics = run([*rows, {**rows[0], "weigth": None}], columns=columns)
    assert "unused_columns" not in metrics
    _, metrics = run(rows, columns=columns)
    assert metrics["unused_columns"] == ["weigth"]
    assert notice_of(metrics) == "no row has these columns of data.columns: ['weigth']"


def test_unknown_names_of_columns_are_refused_before_anything_is_read(run):
    columns = {"a": "promt", "b": "text", "c": "text", "d": "completion"}
    with pytest.raises(ConfigError, match=r"a: promt .unknown.\n  b: text .given twice.\n  c: te"):
        run([], columns=columns)


def test_nothing_to_score(run):
    rows = [{"text": text, "auth_weight": 0.5, "prov_entropy": 1.0} for text in sentences(40)]
    _, metrics = run(rows, provenance=tables())
    assert (metrics["scored_rows"], metrics["scored_mean_authority_weight"]) == (0, None)


def test_wrong_metadata_is_a_bad_row_where_it_is_read(run):
    rows = [*texts(*sentences(40)), {"text": "a", "year": "old"}]
    with pytest.raises(DataError, match=r"line 41: year is a string \('old'\)"):
        run(rows, provenance=tables())


def test_wrong_tables_stop_before_rows_are_read(run, tmp_path):
    with pytest.raises(ConfigError, match="must rise"):
        run(tmp_path / "absent.jsonl", provenance=tables(years=[2, 1]))
