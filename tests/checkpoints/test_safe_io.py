import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mmengine import fileio
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader, load_checkpoint

from mmpelk.checkpoints.safe_io import AtomicLocalBackend
from mmpelk.utils.errors import InputError


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Server(http.server.ThreadingHTTPServer):
    """Serve a folder and record the requests."""

    def __init__(self, folder):
        self.requests, self.cut_short, server = [], False, self
        requests = self.requests

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(folder))

            def do_GET(self):
                requests.append(self.path)
                if server.cut_short:
                    content = Path(folder, self.path[1:]).read_bytes()
                    self.send_response(200)
                    self.send_header('Content-Length', str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2])
                    return
                time.sleep(0.5)  # gives other processes time to start a second download
                super().do_GET()

            def log_message(self, *args):
                pass

        super().__init__(('127.0.0.1', 0), Handler)
        self.address = f'http://127.0.0.1:{self.server_port}'


@pytest.fixture
def server(tmp_path):
    with Server(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_all_loaders_of_mmengine_are_replaced(safe_io):
    """tests/test_import.py checks that importing mmpelk replaces none of them."""
    assert {loader.__module__ for loader in CheckpointLoader._schemes.values()} == {'mmpelk.checkpoints.safe_io'}


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


def test_object_stores_are_read_safely(safe_io, tmp_path, monkeypatch):
    model, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.save(model.state_dict(), tmp_path / 'good.pth')
    torch.save(dict(extra=RunsCode(tmp_path / 'made')), tmp_path / 'bad.pth')
    monkeypatch.setattr(fileio, 'get', lambda url: (tmp_path / url.removeprefix('s3://bucket/')).read_bytes())
    load_checkpoint(other, 's3://bucket/good.pth')
    assert torch.equal(other.weight, model.weight)
    with pytest.raises(InputError, match='checkpoint s3://bucket/bad.pth cannot be loaded safely'):
        load_checkpoint(other, 's3://bucket/bad.pth')
    assert not (tmp_path / 'made').exists()


def test_a_downloaded_checkpoint_is_read_safely(safe_io, server, tmp_path, monkeypatch):
    model, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    torch.save(model.state_dict(), tmp_path / 'good.pth')
    torch.save(dict(extra=RunsCode(tmp_path / 'made')), tmp_path / 'bad.pth')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    for _ in range(2):
        load_checkpoint(other, f'{server.address}/good.pth')
    assert torch.equal(other.weight, model.weight) and server.requests == ['/good.pth']
    with pytest.raises(InputError, match=r'bad_\w{8}.pth cannot be loaded safely'):
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


DOWNLOAD = """
import multiprocessing, os, sys
from mmpelk.checkpoints.safe_io import load_from_http

def load(rank, cache, barrier):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), TORCH_HOME=cache)
    barrier.wait()
    os.write(1, f'{sorted(load_from_http(sys.argv[1]))}\\n'.encode())  # in one piece, regardless of buffering

fork = multiprocessing.get_context('fork')  # imports the package only once
barrier = fork.Barrier(3)
processes = [fork.Process(target=load, args=(rank, cache, barrier)) for rank, cache in enumerate(sys.argv[2:], 1)]
for process in processes:
    process.start()
for process in processes:
    process.join()
"""


def test_processes_of_a_machine_download_once_and_other_machines_for_themselves(server, tmp_path):
    """Two processes share a cache, as on one machine. A third process has its own cache. None of them has rank 0."""
    torch.save(torch.nn.Linear(1, 1).state_dict(), tmp_path / 'a.pth')
    caches = [str(tmp_path / name) for name in ('one', 'one', 'two')]
    command = [sys.executable, '-c', DOWNLOAD, f'{server.address}/a.pth', *caches]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines() == ["['bias', 'weight']"] * 3, result.stderr[-2000:]
    assert server.requests == ['/a.pth'] * 2


def test_files_of_the_same_name_at_two_addresses_are_both_downloaded(safe_io, server, tmp_path, monkeypatch):
    """Many repositories call their file model.safetensors."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    for number, folder in enumerate(('one', 'two')):
        (tmp_path / folder).mkdir()
        torch.save(dict(weight=torch.full((1,), number)), tmp_path / folder / 'model.pth')
    loaded = [CheckpointLoader.load_checkpoint(f'{server.address}/{folder}/model.pth') for folder in ('one', 'two')]
    assert [int(weights['weight']) for weights in loaded] == [0, 1]


def test_a_download_that_is_cut_short_is_not_kept(safe_io, server, tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    torch.save(dict(weight=torch.arange(1000)), tmp_path / 'model.pth')
    size, server.cut_short = (tmp_path / 'model.pth').stat().st_size, True
    with pytest.raises(InputError, match=f'/model.pth cannot be downloaded: {size // 2} of {size} bytes arrived; try again'):
        CheckpointLoader.load_checkpoint(f'{server.address}/model.pth')
    assert [path.suffix for path in (tmp_path / 'cache').rglob('*.*')] == ['.lock']
    server.cut_short = False
    assert CheckpointLoader.load_checkpoint(f'{server.address}/model.pth')['weight'][-1] == 999


def test_the_hash_of_a_cached_file_is_verified(safe_io, server, tmp_path, monkeypatch):
    """A download from another address, or an interrupted download by another program, may have left a file with this name."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
    torch.save(dict(weight=torch.arange(1000)), tmp_path / 'a.pth')
    content = (tmp_path / 'a.pth').read_bytes()
    name = f'a-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    os.link(tmp_path / 'a.pth', tmp_path / name)
    cached = tmp_path / 'cache/hub/checkpoints' / name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content[:1000])
    assert CheckpointLoader.load_checkpoint(f'{server.address}/{name}')['weight'][-1] == 999
    assert cached.read_bytes() == content
