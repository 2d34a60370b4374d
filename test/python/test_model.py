"""Sessions and forward passes around a stand-in for the machine code whose answers are known; names of models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fake_model import CONTEXT, VOCABULARY, make_model

from deepseek.errors import InputError
from deepseek.model import Model


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    return make_model(monkeypatch)


def test_cache_grows_and_keeps_what_it_held(model: Model) -> None:
    session = model.session()
    ids = np.random.default_rng(0).integers(0, 48, CONTEXT)
    capacities = []
    for begin in range(0, CONTEXT, 50):
        session.forward(ids[None, begin : begin + 50])
        capacities.append(session.capacity)
        assert all(cache.ctypes.data % 64 == 0 for cache in session._caches)
    assert capacities == [128, 128, 256, 256, 256, 300]
    np.testing.assert_array_equal(model.executable.history[-1], ids + 1)


def test_idle_memory_is_used_again(model: Model) -> None:
    model.generate("A" * 200, max_new_tokens=1)
    first = model.take_session()
    assert first.capacity == 256 and first.lengths[0] == 0
    model.give_session(first)
    assert model.take_session() is first


def test_batch_forward(model: Model) -> None:
    ids = np.array([[1, 2, 3], [7, 8, 9]])
    assert model.forward(ids).argmax(axis=1).tolist() == [4, 10]
    # Rows of different lengths: row 0 goes back by one position.
    assert model.forward(np.array([[5], [6]]), np.array([3, 4])).argmax(axis=1).tolist() == [6, 7]
    np.testing.assert_array_equal(model.executable.history[-1], [2, 3, 6])
    assert model.logits([3, 4]).shape == (VOCABULARY,)
    assert model.logits([[3, 4]]).shape == (1, VOCABULARY)


@pytest.mark.parametrize(
    ("ids", "lengths", "message"),
    [
        ([1, 2], None, r"ids has shape \[2\], expected \[b, s\]"),
        ([[1.5]], None, "ids has dtype float64, expected integers"),
        (np.zeros((1, 0), np.int32), None, r"ids has shape \[1, 0\]"),
        ([[50]], None, "token id is 50, expected 0 to 49"),
        ([[-1]], None, "token id is -1, expected 0 to 49"),
        ([[1, 2]], [1], "length after 2 new positions is 1, expected 2 to 300"),
        ([[1, 2]], [301], "length after 2 new positions is 301, expected 2 to 300"),
        ([[1, 2]], [3], r"length of row 0 is 3, expected at most 0 held \+ 2 new positions"),
        ([[1, 2]], [2, 2], r"lengths has shape \[2\], expected \[1\]"),
        (np.zeros((1, 301), np.int32), None, "length after 301 new positions is 301"),
    ],
)
def test_bad_forward(model: Model, ids: Any, lengths: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.forward(np.asarray(ids), None if lengths is None else np.asarray(lengths))
    assert not model.executable.history


def test_rows_of_a_session(model: Model) -> None:
    session = model.session(4)
    assert session.forward([[1, 2], [3, 4]], rows=range(1, 3)).argmax(axis=1).tolist() == [3, 5]
    assert session.lengths.tolist() == [0, 2, 2, 0]
    session.forward([[9]], rows=range(3, 4))
    session.move(2, 0)
    assert session.forward([[5], [6]], rows=range(2)).argmax(axis=1).tolist() == [6, 7]
    np.testing.assert_array_equal(model.executable.history[-1], [4, 5, 6])
    session.truncate(2)
    assert session.lengths.tolist() == [2, 2, 2, 1]
    session.forward([[7]], [1], rows=range(2, 3))  # row 2 begins anew
    np.testing.assert_array_equal(model.executable.history[-1], [8])
    for rows in (range(2, 5), range(1, 1), range(-1, 1), range(0, 4, 2)):
        with pytest.raises(InputError, match="expected neighbours among the 4 rows of the session"):
            session.forward([[1], [2]], rows=rows)
    with pytest.raises(InputError, match=r"ids has shape \[1, 1\], expected \[2, s\]"):
        session.forward([[1]], rows=range(2))
    with pytest.raises(InputError, match=r"length of row 3 is 3, expected at most 1 held \+ 1 new positions"):
        session.forward([[1]], [3], rows=range(3, 4))
