"""A series of measurements continues where it was interrupted."""

import json

import pytest

from mmpelk.analysis.measurement_series import measure_missing


def test_only_missing_results_are_measured(tmp_path, capsys):
    path = tmp_path / 'new/results.json'
    measured = []

    def measure(name):
        if name == 'broken':
            raise RuntimeError
        measured.append(name)
        return len(name)

    with pytest.raises(RuntimeError):
        measure_missing(['a', 'bb', 'broken', 'cccc'], measure, path)
    assert json.loads(path.read_text()) == dict(a=1, bb=2)  # saved before the interruption
    assert measure_missing(['cccc', 'bb'], measure, path) == dict(a=1, bb=2, cccc=4) == json.loads(path.read_text())
    assert measured == ['a', 'bb', 'cccc'] and '[1/1, 0 min to go] cccc: 4' in capsys.readouterr().out
