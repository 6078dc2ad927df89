"""A hook that saves checkpoints during training."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from mmpelk.utils.errors import InputError
from mmpelk.utils.files import UNFINISHED, write_atomically


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Save checkpoints so that a complete one always exists.

    mmengine's CheckpointHook removes outdated checkpoints before it saves a new one. This hook first saves the new checkpoint, then
    writes its path to ``last_checkpoint``, and then removes the outdated one. ``tools/train.py`` uses it in place of CheckpointHook.
    """

    def before_train(self, runner) -> None:
        """Remove unfinished files that an earlier run left behind when it was killed.

        Raises:
            InputError: If the checkpoint that the run is resumed from does not list the kept checkpoints by their numbers.
        """
        kept = runner.message_hub.get_info('keep_ckpt_ids', [])
        if not isinstance(kept, list) or not all(type(step) is int for step in kept):
            raise InputError(
                f'the checkpoint to resume from has keep_ckpt_ids={kept!r} in its message_hub; expected a list of integers'
            )
        super().before_train(runner)
        self._forget_foreign_files()
        if is_main_process() and isinstance(self.file_backend, LocalBackend):
            for leftover in Path(self.out_dir).glob(f'.*{UNFINISHED}'):
                leftover.unlink()

    def _forget_foreign_files(self) -> None:
        """Forget a previous best checkpoint that this hook did not write, because saving the next one would remove it.

        Its path comes from the checkpoint that the run is resumed from, which can name any file or folder.
        """
        template = r'\d+'.join(re.escape(part.replace('/', '_')) for part in re.split(r'\{.*?\}', self.filename_tmpl))
        own = re.compile(f'best_.+_{template}')

        def checked(path: object) -> str | None:
            folder, name = os.path.split(path) if isinstance(path, str) else ('', '')
            return path if own.fullmatch(name) and os.path.realpath(folder) == os.path.realpath(self.out_dir) else None

        if hasattr(self, 'best_ckpt_path'):
            self.best_ckpt_path = checked(self.best_ckpt_path)
        if hasattr(self, 'best_ckpt_path_dict'):
            self.best_ckpt_path_dict = {key: checked(path) for key, path in self.best_ckpt_path_dict.items()}

    def _save_checkpoint_with_step(self, runner, step, meta):
        keep = self.max_keep_ckpts > 0
        outdated = None
        if keep and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                outdated = self.keep_ckpt_ids.popleft()
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        write_atomically(self.last_ckpt.encode(), Path(runner.work_dir, 'last_checkpoint'))
        if outdated is not None:
            self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(outdated)))

    def _save_best_checkpoint(self, runner, metrics) -> None:
        with self._postponed_removals():
            super()._save_best_checkpoint(runner, metrics)

    @contextlib.contextmanager
    def _postponed_removals(self) -> Iterator[None]:
        """Postpone the removal of files until the context ends."""
        backend, removed = self.file_backend, []
        self.file_backend = _PostponingBackend(backend, removed)
        try:
            yield
        finally:
            self.file_backend = backend
        for path in removed:
            # A new best checkpoint with the same name has already replaced the old one.
            if path not in (getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()):
                self._remove(path)

    def _remove(self, path: str) -> None:
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed saves a checkpoint as a folder
            self.file_backend.rmtree(path)


class _PostponingBackend:
    """A file backend that records the paths to remove instead of removing them."""

    def __init__(self, backend: Any, removed: list[str]) -> None:
        self._backend = backend
        self.remove = self.rmtree = removed.append

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)
