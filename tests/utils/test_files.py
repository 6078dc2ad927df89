import os
import stat
import time

import pytest

from mmpelk.utils import files
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


def test_files_are_written_together_or_not_at_all(tmp_path):
    (tmp_path / 'a').write_bytes(b'old')
    (tmp_path / 'b').mkdir()
    with pytest.raises(InputError, match=r'cannot write .*/b: it is not a regular file'):
        files.write_together({tmp_path / 'a': b'new', tmp_path / 'b': b'new'})
    assert (tmp_path / 'a').read_bytes() == b'old' and sorted(os.listdir(tmp_path)) == ['a', 'b']
    files.write_together({tmp_path / 'a': b'new', tmp_path / 'c': b'other'})
    assert (tmp_path / 'a').read_bytes() == b'new' and (tmp_path / 'c').read_bytes() == b'other'


@pytest.mark.parametrize(
    'path, reason',
    [('x' * 300, 'File name too long'), ('file/x', 'file is not a directory'), ('a\0b', 'embedded null'), ('y' * 240, None)],
)
def test_the_reason_names_the_file(tmp_path, path, reason):
    (tmp_path / 'file').touch()
    if reason is None:  # the name of the unfinished file is not much longer
        write_atomically(b'one', tmp_path / path)
        return
    with pytest.raises(InputError, match=f'^cannot write .*{reason}') as caught:
        write_atomically(b'one', tmp_path / path)
    assert files.UNFINISHED not in str(caught.value) and os.listdir(tmp_path) == ['file']


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path):
    for name, age in (('.a-old.unfinished', 4000), ('.a-new.unfinished', 60), ('.b-old.unfinished', 4000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_atomically(b'one', tmp_path / 'a')
    assert sorted(os.listdir(tmp_path)) == ['.a-new.unfinished', '.b-old.unfinished', 'a']
