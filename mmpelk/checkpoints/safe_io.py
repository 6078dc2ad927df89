"""Make mmengine read checkpoints safely and write files atomically in this process."""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import Request, urlopen

import torch
from filelock import FileLock
from mmengine import fileio
from mmengine.fileio import LocalBackend, register_backend
from mmengine.runner.checkpoint import CheckpointLoader

from mmpelk.utils.errors import InputError, first_line
from mmpelk.utils.files import UNFINISHED, write_atomically

from .reading import load_safely, read_checkpoint

# OpenMMLab and torch put the first digits of a file's SHA-256 before the suffix, as in name-cad485de.pth.
HASH = re.compile(r'-([a-f0-9]{8,64})\.')


def install_safe_io() -> None:
    """Make mmengine read checkpoints safely and write files atomically, for the rest of this process.

    The tools call this first. Any script that uses mmengine can do the same::

        from mmpelk.checkpoints import install_safe_io
        install_safe_io()

    Afterward, ``load_from``, ``resume``, and ``init_cfg`` never run code from a checkpoint: local files, URLs, and object stores are
    read with ``weights_only=True``. Schemes that mmengine can only read unsafely (``torchvision://``, ``open-mmlab://``, and so on)
    are rejected. Files that mmengine writes locally appear only once they are complete.
    """
    for prefixes, loader in (
        ('', load_from_local),
        (('http://', 'https://'), load_from_http),
        ((r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), load_from_store),
        (('pavi://', 'modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://'), refuse),
    ):
        CheckpointLoader.register_scheme(prefixes=prefixes, loader=loader, force=True)
    register_backend('local', AtomicLocalBackend, prefixes='', force=True)


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint from a local file."""
    return read_checkpoint(filename, map_location)


def load_from_http(filename: str, map_location: Any = None, model_dir: str | None = None) -> dict[str, Any]:
    """Read a checkpoint from a URL. The file is downloaded once per machine, to ``model_dir`` or torch's cache.

    Raises:
        InputError: If the file cannot be downloaded, is cut short, or does not match the hash in the URL.
    """
    folder = Path(model_dir or Path(torch.hub.get_dir(), 'checkpoints'))
    path = folder / _cached_name(filename)
    folder.mkdir(parents=True, exist_ok=True)
    # One process of each machine downloads the file while the others wait. Machines that share the folder download it once.
    with FileLock(f'{path}.lock'):
        if not path.exists() or not _has_its_hash(path, path.name):
            try:
                _download(filename, path)
            except (OSError, HTTPException) as error:
                raise InputError(f'checkpoint {filename} cannot be downloaded: {first_line(error)}') from error
    return read_checkpoint(path, map_location)


def _download(url: str, path: Path) -> None:
    """Download a file, which appears only once it is complete and matches the hash in its name.

    Raises:
        OSError: If the download fails, is cut short, or does not match the hash.
    """
    with tempfile.TemporaryDirectory(prefix=f'.{path.name}-', suffix=UNFINISHED, dir=path.parent) as folder:
        unfinished = Path(folder, path.name)
        with urlopen(Request(url, headers={'User-Agent': 'mmpelk'})) as response, open(unfinished, 'wb') as file:
            shutil.copyfileobj(response, file)
        size, expected = unfinished.stat().st_size, response.headers['Content-Length']
        if expected is not None and size != int(expected):
            raise OSError(f'{size} of {expected} bytes arrived; try again')
        if not _has_its_hash(unfinished, path.name):
            raise OSError(
                f'invalid hash value: its SHA-256 does not begin with {HASH.search(path.name)[1]}, the hash in its name'
            )
        unfinished.replace(path)


def _has_its_hash(path: Path, name: str) -> bool:
    """Return whether a file matches the hash in a name, if the name has one."""
    match = HASH.search(name)
    if match is None:
        return True
    digest = sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest().startswith(match[1])


def _cached_name(url: str) -> str:
    """Return a file name for a URL. Names without a hash, such as model.safetensors, are made unique with a hash of the URL."""
    name = Path(urlparse(url).path)
    return name.name if HASH.search(name.name) else f'{name.stem}_{sha256(url.encode()).hexdigest()[:8]}{name.suffix}'


def load_from_store(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a checkpoint from an object store with mmengine's file backends."""
    return load_safely(io.BytesIO(fileio.get(filename)), filename, map_location)


def refuse(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Reject a scheme that mmengine can only read unsafely."""
    raise InputError(f'checkpoint {filename} cannot be loaded safely through this scheme; download the file and pass its path')


class AtomicLocalBackend(LocalBackend):
    """A replacement for mmengine's LocalBackend, which saves the checkpoints. Files appear only once they are complete."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file."""
        write_atomically(obj, filepath)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text to a file."""
        write_atomically(obj.encode(encoding), filepath)
