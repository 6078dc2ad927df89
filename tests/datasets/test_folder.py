import json
import stat

import pytest

from mmpelk.datasets.folder import make_folder


def test_a_folder_is_written_once(tmp_path):
    root = tmp_path / 'deep/data'
    written = []

    def write(folder):
        assert not root.exists() and folder.parent == root.parent
        (folder / 'a.txt').write_text('one')
        written.append(folder)

    for _ in range(2):
        assert make_folder(str(root), dict(size=3), write) == root
    assert len(written) == 1 and [path.name for path in root.parent.iterdir()] == ['data']
    assert (root / 'a.txt').read_text() == 'one' and json.loads((root / 'made_with.json').read_text()) == dict(size=3)
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    with pytest.raises(
        FileExistsError, match="data exists but was not made with {'size': 4}; remove it or choose another folder"
    ):
        make_folder(root, dict(size=4), write)


def test_other_contents_are_not_changed(tmp_path):
    (tmp_path / 'precious.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='exists but was not made with'):
        make_folder(tmp_path, dict(size=3), lambda folder: None)
    assert [path.name for path in tmp_path.iterdir()] == ['precious.txt']


def test_an_interrupted_write_leaves_nothing_behind(tmp_path):
    def write(folder):
        (folder / 'a.txt').touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_folder(tmp_path / 'data', dict(size=3), write)
    assert list(tmp_path.iterdir()) == []
