"""Smaller steps for the shared weights of grown kernels, as an mmengine hook."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmpelk.utils.errors import InputError

from .shared_steps import scale_shared_steps


@HOOKS.register_module()
class SharedStepsHook(Hook):
    """Apply :func:`mmpelk.models.scale_shared_steps` to the optimizer of a model with a ``GrownBackbone``.

    In a config: ``custom_hooks = [dict(type='SharedStepsHook')]``.
    """

    def before_train(self, runner: Runner) -> None:
        """Scale the steps until training ends.

        Raises:
            InputError: If the model has no grown kernel that is trained.
        """
        try:
            self._handle = scale_shared_steps(runner.model, runner.optim_wrapper.optimizer)
        except ValueError as error:
            raise InputError(f"SharedStepsHook needs backbone=dict(type='GrownBackbone', ...): {error}") from error

    def after_train(self, runner: Runner) -> None:
        """End the scaling."""
        self._handle.remove()
