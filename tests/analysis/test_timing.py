"""Calls take turns, within their rounds and budget."""

import time
from functools import partial

from mmpelk.analysis import timing
from mmpelk.analysis.timing import interleaved


def test_calls_take_turns(monkeypatch):
    monkeypatch.setattr(timing, 'TURN', 0.0)
    calls = []
    times = interleaved({name: partial(calls.append, name) for name in 'ab'}, rounds=3)
    assert calls == ['a', 'b'] * 4 and set(times) == {'a', 'b'}
    assert times['a'].rounds == 3 and times['a'].fastest <= times['a'].median <= times['a'].slowest
    slow = interleaved({'slow': lambda: time.sleep(0.02), 'fast': lambda: None}, rounds=4, budget=0.05)
    assert slow['slow'].rounds < 4 and slow['fast'].rounds == 4
