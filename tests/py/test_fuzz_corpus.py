# SPDX-License-Identifier: MIT
"""The fuzzers' inputs for what Python decodes, and whatever Hypothesis thinks of.

The corpus of the nest is found by ``fuzz/run.py``. Of other messages everything is tried
but the pickles themselves: these run what they say.
"""

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidestep import _core

CORPUS = Path(__file__).resolve().parents[2] / "fuzz" / "corpus"
NESTS = sorted((CORPUS / "nest").iterdir())


def decode(data):
    q = _core.Queue()
    q.put_bytes(data)
    return q.get()


def encode(obj):
    q = _core.Queue()
    q.put(obj)
    return q.get_bytes()


@pytest.fixture(scope="module", autouse=True)
def unpickled():
    """In this module no pickle is read: what would be is in the list."""
    from sidestep import reduction

    seen = []
    _core.set_pickler(lambda *_: b"", lambda *given: seen.append(given))
    yield seen
    _core.set_pickler(reduction._dumps, reduction._loads)


def test_there_is_a_corpus():
    assert len(NESTS) > 20


def test_nests_of_the_corpus():
    for path in NESTS:
        data = b"n" + path.read_bytes()
        try:
            obj = decode(data)
        except ValueError as error:
            assert "the message is damaged" in str(error)  # noqa: PT017
        else:
            assert repr(decode(encode(obj))) == repr(obj), path.name


def test_nests_of_the_corpus_cut_short():
    for path in NESTS:
        data = b"n" + path.read_bytes()
        for end in range(1, min(len(data), 60)):
            with contextlib.suppress(ValueError):
                decode(data[:end])


@settings(max_examples=300, deadline=None)
@given(st.characters(codec="latin-1", exclude_characters="B"), st.binary(max_size=30))
def test_any_message(tag, payload):
    with contextlib.suppress(ValueError):
        decode(tag.encode("latin-1") + payload)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=12), st.binary()
)
def test_any_header_of_a_message_with_buffers(words, rest):
    data = b"B" + struct.pack(f"<{len(words)}Q", *words) + rest
    for message in (data, b"B" + bytes(7) + data[1:], b"B" + rest):
        with contextlib.suppress(ValueError, RuntimeError):
            decode(message)


def test_no_pickle_was_read(unpickled):
    unpickled.clear()
    decode(b"Pabc")
    assert len(unpickled) == 1
