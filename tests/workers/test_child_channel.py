"""Messages between a worker and its children: each arrives as it was sent, however the stream cuts or joins them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.instances.process.channel import MAX_MESSAGE, Channel, ChannelBroken, encode_message
from workers.system.framing import frame

Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair()
    channels = Channel(ends[0]), Channel(ends[1])
    yield channels
    for channel in channels:
        channel.close()


@given(sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=8))
def test_messages_that_arrive_together_are_received_one_by_one(sizes: list[int]) -> None:
    ours, theirs = socket.socketpair()
    sender, receiver = Channel(ours), Channel(theirs)
    for number, size in enumerate(sizes):
        sender.send_message(encode_message({"number": number, "text": "x" * size}))
    received = [receiver.receive_message() for _ in sizes]

    assert received == [({"number": n, "text": "x" * size}, []) for n, size in enumerate(sizes)]
    sender.close()
    receiver.close()


def test_descriptors_stay_with_their_message(pair: Pair) -> None:
    sender, receiver = pair
    reader, writer = os.pipe()
    sender.send_message(encode_message("before"))
    sender.send_message(encode_message("with"), [reader, writer])
    sender.send_message(encode_message("after"))
    received = [receiver.receive_message() for _ in range(3)]

    assert [text for text, _ in received] == ["before", "with", "after"]
    assert [len(descriptors) for _, descriptors in received] == [0, 2, 0]
    for descriptor in (reader, writer, *received[1][1]):
        os.close(descriptor)


@given(cuts=st.lists(st.integers(1, 40), max_size=6))
def test_a_message_that_arrives_in_pieces_is_whole(cuts: list[int]) -> None:
    ours, theirs = socket.socketpair()
    data = memoryview(frame(encode_message({"text": "x" * 50})))

    def send() -> None:
        rest = data
        for cut in cuts:
            ours.sendall(rest[:cut])
            rest = rest[cut:]
        ours.sendall(rest)

    thread = threading.Thread(target=send)
    thread.start()
    assert Channel(theirs).receive_message() == ({"text": "x" * 50}, [])
    thread.join()
    ours.close()
    theirs.close()


@pytest.mark.parametrize("data", [b"", b"\0\0", frame(b"\xc1"), frame(b"\x01\x02"), (MAX_MESSAGE + 1).to_bytes(4)])
def test_what_is_no_message_breaks_the_channel_and_leaves_no_descriptor(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    reader, writer = os.pipe()
    if data:
        socket.send_fds(ours, [data], [writer])
    os.close(writer)
    ours.close()
    with pytest.raises(ChannelBroken):
        Channel(theirs).receive_message()
    theirs.close()
    assert os.read(reader, 1) == b""  # no process holds the other end
    os.close(reader)
