import hashlib
import http.server
import os
import subprocess
import sys
import threading

import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.runner import load_checkpoint

from mmpelk.checkpoints.safe_io import AtomicLocalBackend
from mmpelk.utils.errors import InputError


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder and records the requests."""

    def __init__(self, folder):
        self.requests = requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(folder))

            def log_request(self, code='-', size='-'):
                requests.append(self.path)

        super().__init__(('127.0.0.1', 0), Handler)
        self.address = f'http://127.0.0.1:{self.server_port}'


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_mmengine_refuses_a_hostile_file(safe_io, tmp_path):
    torch.save(dict(state_dict={}, extra=RunsCode(tmp_path / 'made')), tmp_path / 'a.pth')
    with pytest.raises(InputError, match='a.pth cannot be loaded safely'):
        load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / 'a.pth'))
    assert not (tmp_path / 'made').exists()


def test_mmengine_writes_atomically(safe_io, tmp_path):
    backend = get_file_backend(str(tmp_path))
    assert isinstance(backend, AtomicLocalBackend)
    backend.put(b'one', tmp_path / 'deep/a')
    backend.put_text('zwö', tmp_path / 'deep/b')
    assert (tmp_path / 'deep/a').read_bytes() == b'one' and (tmp_path / 'deep/b').read_text('utf-8') == 'zwö'


@pytest.mark.parametrize('url', ['https://nowhere.invalid/a.pth', 'torchvision://resnet50', 'open-mmlab://resnet50'])
def test_other_sources_do_not_bypass_safe_reading(safe_io, url, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(InputError, match='cannot be (downloaded|loaded safely)'):
        load_checkpoint(torch.nn.Linear(1, 1), url)


def test_a_downloaded_checkpoint_is_read_safely(safe_io, server, tmp_path, monkeypatch):
    model, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.save(model.state_dict(), tmp_path / 'good.pth')
    torch.save(dict(extra=RunsCode(tmp_path / 'made')), tmp_path / 'bad.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    for _ in range(2):
        load_checkpoint(other, f'{server.address}/good.pth')
    assert torch.equal(other.weight, model.weight) and server.requests == ['/good.pth']
    with pytest.raises(InputError, match='bad.pth cannot be loaded safely'):
        load_checkpoint(other, f'{server.address}/bad.pth')
    assert not (tmp_path / 'made').exists()


def test_the_hash_in_a_url_is_verified(safe_io, server, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / 'a.pth')
    digest = hashlib.sha256((tmp_path / 'a.pth').read_bytes()).hexdigest()[:8]
    for name in (f'right-{digest}.pth', 'wrong-0123abcd.pth'):
        os.link(tmp_path / 'a.pth', tmp_path / name)
    load_checkpoint(torch.nn.Linear(1, 1), f'{server.address}/right-{digest}.pth')
    with pytest.raises(InputError, match='wrong-0123abcd.pth cannot be downloaded: invalid hash value'):
        load_checkpoint(torch.nn.Linear(1, 1), f'{server.address}/wrong-0123abcd.pth')
    cached = {path.name for path in (tmp_path / 'cache').rglob('*.pth*') if not path.name.endswith('.lock')}
    assert cached == {f'right-{digest}.pth'}


def test_processes_of_a_machine_download_once_and_other_machines_for_themselves(server, tmp_path):
    """Two processes share a cache, as on one machine; a third one has its own. None of them is rank 0."""
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / 'a.pth')
    script = (
        'import sys, torch; from mmpelk.checkpoints.safe_io import load_from_http; print(sorted(load_from_http(sys.argv[1])))'
    )
    processes = []
    for rank, cache in ((1, 'one'), (2, 'one'), (3, 'two')):
        env = {**os.environ, 'TORCH_HOME': str(tmp_path / cache), 'RANK': str(rank), 'LOCAL_RANK': str(rank)}
        command = [sys.executable, '-c', script, f'{server.address}/a.pth']
        processes.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    for process in processes:
        output, error = process.communicate(timeout=120)
        assert output.strip() == "['bias', 'weight']", error[-2000:]
    assert server.requests == ['/a.pth'] * 2
