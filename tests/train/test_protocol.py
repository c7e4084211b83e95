"""Messages between processes: whole, in order, and an end that is noticed."""

import os
from threading import Thread

import pytest

from pipeline.train.protocol import Receiver, Sender


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
    os.write(write, b'{"a": 1}\n{"b"')
    assert receiver.receive(1.0) == [{"a": 1}]
    os.write(write, b': "\xc3')
    assert receiver.receive(1.0) == []
    os.write(write, b'\xa4"}\n')
    assert receiver.receive(1.0) == [{"b": "ä"}]


def test_what_is_sent_comes_back(pipe):
    read, write = pipe
    message = {"text": "two\nlines", "number": 0.1, "nothing": None}
    assert Sender(write).send(message)
    assert Receiver(read).receive(1.0) == [message]


def test_threads_do_not_write_into_one_another(pipe):
    read, write = pipe
    sender, receiver, long = Sender(write), Receiver(read), "x" * 300_000
    threads = [
        Thread(target=lambda text=text: [sender.send({"text": text}) for _ in range(20)])
        for text in (long, "beat")
    ]
    for thread in threads:
        thread.start()
    found = []
    while len(found) < 40:
        found += [message["text"] for message in receiver.receive(5.0)]
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
    assert not Sender(pipe[0]).send({"a": 1})
