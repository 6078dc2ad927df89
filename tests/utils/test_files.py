import os
import stat

import pytest

from mmpelk.utils.errors import InputError
from mmpelk.utils.files import write_atomically


def test_a_new_file_has_the_usual_permissions(tmp_path):
    write_atomically(b'one', tmp_path / 'deep/a')
    assert (tmp_path / 'deep/a').read_bytes() == b'one'
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / 'deep/a').stat().st_mode) == 0o666 & ~mask


def test_only_regular_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    (tmp_path / 'link to a pipe').symlink_to('pipe')
    (tmp_path / 'loop').symlink_to('loop')
    (tmp_path / 'folder').mkdir()
    for name in ('pipe', 'link to a pipe', 'loop', 'folder'):
        with pytest.raises(InputError, match=f'cannot write {tmp_path}/{name}: it is not a regular file'):
            write_atomically(b'one', tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ['folder', 'link to a pipe', 'loop', 'pipe']
    assert stat.S_ISFIFO((tmp_path / 'pipe').stat().st_mode) and (tmp_path / 'loop').is_symlink()


def test_links_stay_links(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'disk/a').write_bytes(b'old')
    for name in ('a', 'b'):  # b does not exist yet
        (tmp_path / name).symlink_to(f'disk/{name}')
        write_atomically(b'new', tmp_path / name)
        assert (tmp_path / name).is_symlink() and (tmp_path / 'disk' / name).read_bytes() == b'new'
