"""Messages between processes arrive whole and in order, and an end is noticed."""

import math
import os
from threading import Thread
from typing import get_args

import pytest

from pipeline.train.protocol import (
    KINDS,
    Event,
    Go,
    Note,
    Order,
    Receiver,
    Result,
    RunSpec,
    Sender,
    Started,
    Step,
    Stop,
)


@pytest.fixture
def pipe():
    read, write = os.pipe()
    ends = [read, write]
    yield ends
    for end in ends:
        os.close(end)


def test_messages_arrive_whole_and_in_order_however_they_are_cut(pipe):
    read, write = pipe
    receiver = Receiver(read)
    os.write(write, b'{"message": "Stop"}\n{"message": "Note", "text"')
    assert receiver.receive(1.0) == [Stop()]
    os.write(write, b': "\xc3')
    assert receiver.receive(1.0) == []
    os.write(write, b'\xa4"}\n')
    assert receiver.receive(1.0) == [Note("ä")]


MESSAGES = [
    Go(1, 10**9, None, 5, "refuse", 2, 0, None, "check"),
    Started(4, ["blas: a -> b"]),
    Step(7, math.inf, 1234.5, 10**8, 0.1),
    Note("two\nlines"),
    Result({"val_loss": 0.1 + 0.2, "stopped_early_at": None, "inexact": []}),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_what_is_sent_comes_back(pipe, message):
    read, write = pipe
    assert Sender(write).send(message)
    assert Receiver(read).receive(1.0) == [message]


def test_every_message_has_a_name_of_its_own():
    assert len(KINDS) == len([*get_args(Order), *get_args(Event)])


def test_a_loss_that_is_not_a_number_arrives(pipe):
    read, write = pipe
    Sender(write).send(Step(7, math.nan, 1.0, 1, 0.1))
    (step,) = Receiver(read).receive(1.0)
    assert math.isnan(step.train_loss)


def test_a_specification_comes_back_as_it_was_written(tmp_path):
    spec = RunSpec(
        "train", "finetune", {"seed": 3}, "base", "data", str(tmp_path), "out", code={"a.py": "1"}
    )
    spec.write()
    assert RunSpec.read(spec.file) == spec
    assert spec.config.seed == 3


def test_threads_do_not_write_into_one_another(pipe):
    read, write = pipe
    sender, receiver, long = Sender(write), Receiver(read), "x" * 300_000
    threads = [
        Thread(target=lambda text=text: [sender.send(Note(text)) for _ in range(20)])
        for text in (long, "beat")
    ]
    for thread in threads:
        thread.start()
    found = []
    while len(found) < 40:
        found += [message.text for message in receiver.receive(5.0)]
    for thread in threads:
        thread.join()
    assert sorted(found) == ["beat"] * 20 + [long] * 20


def test_silence_is_no_end(pipe):
    receiver = Receiver(pipe[0])
    assert receiver.receive(0.01) == []
    assert receiver.is_open


def test_the_end_is_noticed(pipe):
    receiver = Receiver(pipe[0])
    os.close(pipe.pop())
    assert receiver.receive(1.0) == []
    assert not receiver.is_open


def test_a_sender_is_told_that_nobody_listens(pipe):
    os.close(pipe.pop(0))
    assert not Sender(pipe[0]).send(Stop())


@pytest.mark.parametrize(
    ("interval", "samples", "ends"), [(0, 0, []), (4, 0, [4, 8]), (0, 5, [5]), (4, 3, [3, 4, 6, 8])]
)
def test_a_worker_ends_at_each_interval(interval, samples, ends):
    go = Go(0, 10**9, None, interval, "refuse", 1, 0, None, "none", samples)
    assert [step for step in range(1, 9) if go.is_end(step)] == ends
