"""Sparse training as mmengine hooks, which any config enables in ``custom_hooks``."""

from __future__ import annotations

import copy
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce_params, broadcast, broadcast_object_list, get_rank
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmpelk.utils.arguments import is_int, is_number
from mmpelk.utils.errors import InputError
from mmpelk.utils.torch_compat import hook_steps
from mmpelk.utils.wrappers import unwrap

from .densities import ALLOCATIONS, erk_counts, snip_counts, uniform_counts
from .masks import mask_of_zeros, prune_and_grow, random_mask, shared_kernels, sparse_weights


class SparsityHook(Hook, ABC):
    """Keep pruned weights and their moving averages at zero, and save the masks in checkpoints.

    As in SLaK, the moments of Adam are not masked. They follow the gradients of pruned weights too, so a weight that grows again takes
    steps of the usual size. The momentum of SGD is masked.

    Optimizer hooks apply the masks after each optimizer step. Accumulating gradients over several iterations is one step, and a step
    that AMP skips is not counted.

    Args:
        prefix (str): Only parameters whose name starts with it are masked.
    """

    # After EMAHook (NORMAL), before CheckpointHook (VERY_LOW).
    priority = 'LOW'

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.masks: dict[str, Tensor] = {}
        self.steps = 0
        self._weights: dict[str, nn.Parameter] = {}
        self._averages: list[dict[str, nn.Parameter]] = []
        self._restored = False
        self._averages_stale = True
        self._handle: RemovableHandle | None = None

    @abstractmethod
    def initial_masks(self, runner: Runner, model: nn.Module) -> dict[str, Tensor]:
        """Return the initial masks by name. Layers without a mask are dense."""

    def before_train(self, runner: Runner) -> None:
        """Apply the initial masks, or those of the checkpoint if training is resumed."""
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            raise InputError(f'{type(self).__name__} needs a single optimizer, got several (OptimWrapperDict)')
        model = unwrap(runner.model)
        self._weights = sparse_weights(model, self.prefix)
        if not self._restored:
            self.masks = self.initial_masks(runner, model)
        self.masks = {name: mask.to(self._weights[name].device) for name, mask in self.masks.items()}
        for mask in self.masks.values():
            broadcast(mask)
        self._averages = [dict(hook.ema_model.module.named_parameters()) for hook in runner.hooks if isinstance(hook, EMAHook)]
        optimizer = runner.optim_wrapper.optimizer
        self._handle = hook_steps(optimizer, lambda: self.before_step(runner), lambda: self.after_step(optimizer))
        self._apply(optimizer)
        self._apply_to_averages()
        runner.logger.info(self._table())

    def before_step(self, runner: Runner) -> None:
        """Run before each optimizer step."""

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Count an optimizer step and apply the masks after it. EMAHook averages the masked weights later in the iteration."""
        self.steps += 1
        self._apply(optimizer)
        if self._averages_stale:
            self._apply_to_averages()

    def after_train(self, runner: Runner) -> None:
        """Remove the optimizer hooks and log the fraction of nonzero weights."""
        self._handle.remove()
        if self.masks:
            nonzero = sum(int(weight.count_nonzero()) for weight in self._weights.values())
            share = nonzero / sum(weight.numel() for weight in self._weights.values())
            runner.logger.info(
                f'{type(self).__name__}: trained with {self.density():.4f} of the weights kept, {share:.4f} are nonzero'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the masks and the step count in the checkpoint."""
        masks = {name: mask.cpu() for name, mask in self.masks.items()}
        checkpoint['sparsity'] = dict(steps=self.steps, masks=masks)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the masks and the step count when training is resumed."""
        if runner._resume:
            self.check(checkpoint, unwrap(runner.model), 'to resume')
            self.steps = checkpoint['sparsity']['steps']
            self.masks = dict(checkpoint['sparsity']['masks'])
            self._restored = True

    def check(self, checkpoint: Mapping[str, Any], model: nn.Module, path: str | Path) -> None:
        """Check that the masks in a checkpoint fit the model.

        Raises:
            InputError: If there are no masks, or a mask has no weight or another shape than its weight.
        """
        state = checkpoint.get('sparsity')
        if not isinstance(state, dict) or 'masks' not in state:
            raise InputError(
                f"checkpoint {path} has no 'sparsity' masks: it was trained without {type(self).__name__}; "
                'start from it with load_from instead of resuming'
            )
        weights = sparse_weights(model, self.prefix)
        for name, mask in state['masks'].items():
            if name not in weights:
                raise InputError(f"checkpoint {path}: sparsity mask '{name}' does not belong to a weight of the model")
            if mask.shape != weights[name].shape or mask.dtype != torch.bool:
                raise InputError(
                    f"checkpoint {path}: sparsity mask '{name}' is {mask.dtype} {tuple(mask.shape)}, "
                    f'its weight needs torch.bool {tuple(weights[name].shape)}'
                )

    @torch.no_grad()
    def _apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Set pruned weights, and their momentum if the optimizer is SGD, to zero."""
        for name, mask in self.masks.items():
            weight = self._weights[name]
            weight.mul_(mask)
            momentum = optimizer.state.get(weight, {}).get('momentum_buffer')
            if momentum is not None:
                momentum.mul_(mask)

    @torch.no_grad()
    def _apply_to_averages(self) -> None:
        """Set the pruned entries of the moving averages to zero. The average of a grown weight starts at its value, as in SLaK."""
        for averages in self._averages:
            for name, mask in self.masks.items():
                average = averages[name]
                mask, weight = mask.to(average.device), self._weights[name].to(average.device)
                average.copy_(torch.where(average == 0, weight, average).mul_(mask))
        self._averages_stale = False

    def density(self) -> float:
        """Return the fraction of the maskable weights that are kept."""
        kept = sum(int(self.masks[name].sum()) if name in self.masks else w.numel() for name, w in self._weights.items())
        return kept / max(1, sum(weight.numel() for weight in self._weights.values()))

    def _table(self) -> str:
        """Format the density of each layer, one line per layer."""
        lines = [f'{type(self).__name__}: {self.density():.4f} of the weights kept overall']
        for name, weight in self._weights.items():
            density = self.masks[name].float().mean().item() if name in self.masks else 1.0
            lines.append(f'  {density:.4f}  {name} {tuple(weight.shape)}')
        return '\n'.join(lines)


@HOOKS.register_module()
class DynamicSparsityHook(SparsityHook):
    """Train with dynamic sparsity from the start (SLaK), as PeLK does on ImageNet.

    Every 2-D and 4-D weight gets a random mask with the density of its layer. If training starts from sparse weights, such as those of
    ``--pretrained`` or ``load_from``, their zeros define the first masks instead. Every ``interval`` optimizer steps, each layer drops
    the fraction p of its weights with the smallest magnitudes and grows as many at random, initialized to 0. p decreases from
    ``rate`` to ``final_rate`` over the run, along a half cosine.

    Args:
        sparsity (float): Fraction of the weights that are zero, in [0, 1). Defaults to 0.4.
        allocation (str): Method that determines the density of each layer: 'snip' (from one batch of training data), 'erk', or
            'uniform'. Defaults to 'snip'.
        interval (int): Optimizer steps between changes of the masks. SLaK uses 2000 for T and 100 for S and B. Defaults to 2000.
        rate (float): Value of p at the start. SLaK uses 0.5 for T and 0.3 for S and B. Defaults to 0.5.
        final_rate (float): Value of p at the end. Defaults to 0.005.
        seed (int): Random seed. Defaults to 0.
        prefix (str): Only parameters whose name starts with it are masked. Defaults to '', which masks all.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        sparsity=0.4,
        allocation='snip',
        interval=2000,
        rate=0.5,
        final_rate=0.005,
        seed=0,
        prefix='',
    ):
        super().__init__(prefix)
        if not is_number(sparsity) or not 0 <= sparsity < 1:
            raise ValueError(f'sparsity must be in [0, 1), got {sparsity!r}')
        if allocation not in ALLOCATIONS:
            raise ValueError(f'allocation must be one of {ALLOCATIONS}, got {allocation!r}')
        if not is_int(interval) or interval < 1:
            raise ValueError(f'interval must be an integer of at least 1 step, got {interval!r}')
        if not is_number(rate) or not is_number(final_rate) or not 0 <= final_rate <= rate <= 1:
            raise ValueError(f'rates must satisfy 0 <= final_rate <= rate <= 1, got {final_rate!r} and {rate!r}')
        if not is_int(seed):
            raise ValueError(f'seed must be an integer, got {seed!r}')
        self.sparsity = sparsity
        self.allocation = allocation
        self.interval = interval
        self.rate = rate
        self.final_rate = final_rate
        self.seed = seed
        self._total_steps = 0

    def before_train(self, runner: Runner) -> None:
        """See :meth:`SparsityHook.before_train`."""
        super().before_train(runner)
        self._total_steps = math.ceil(runner.max_iters / runner.optim_wrapper._accumulative_counts)

    def initial_masks(self, runner: Runner, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of the loaded weights' zeros, or random masks with the densities of ``allocation`` if these are dense."""
        if not self._weights:
            raise InputError(f"DynamicSparsityHook: the model has no 2-D or 4-D weight under prefix '{self.prefix}'")
        masks = mask_of_zeros(self._weights, shared_kernels(model))
        if masks:
            runner.logger.info('DynamicSparsityHook: the loaded weights are sparse; training starts from their zeros')
            return masks
        shapes = {name: weight.shape for name, weight in self._weights.items()}
        density = 1 - self.sparsity
        if self.allocation == 'snip':
            counts = snip_counts(self._snip_scores(runner, model), density)
        else:
            counts = (erk_counts if self.allocation == 'erk' else uniform_counts)(shapes, density)
        # Rounding may differ between GPUs, so all ranks use the counts of rank 0.
        shared = [counts]
        broadcast_object_list(shared)
        counts = shared[0]
        return {
            name: random_mask(weight, counts[name], self._generator('start', name, weight.device))
            for name, weight in self._weights.items()
            if counts[name] < weight.numel()
        }

    def _snip_scores(self, runner: Runner, model: nn.Module) -> dict[str, Tensor]:
        """Compute |weight * gradient| on one batch of training data per process, in float32.

        As in SLaK, the batch is not mixed (mixup, CutMix), and a classifier's loss is the cross-entropy without label smoothing. A copy
        of the model is used to keep its BatchNorm statistics.
        """
        model = copy.deepcopy(model).train()
        if hasattr(getattr(model, 'head', None), 'loss_module'):  # a classifier of mmpretrain
            # Cross-entropy that takes one-hot labels too.
            model.head.loss_module = MODELS.build(dict(type='LabelSmoothLoss', label_smooth_val=0.0, mode='original'))
            model.data_preprocessor.batch_augments = None
        loader = runner.train_dataloader
        order = torch.randperm(len(loader.dataset), generator=self._generator('batch', '', 'cpu')).tolist()
        size = min(loader.batch_size or loader.batch_sampler.batch_size, len(order))
        images = [loader.dataset[order[(get_rank() * size + i) % len(order)]] for i in range(size)]
        batch = model.data_preprocessor(loader.collate_fn(images), True)
        loss, _ = model.parse_losses(model._run_forward(batch, mode='loss'))
        loss.backward()
        weights = sparse_weights(model, self.prefix)
        gradients = {name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in weights.items()}
        all_reduce_params(gradients.values(), op='mean')
        return {name: (weight * gradients[name]).abs().detach() for name, weight in weights.items()}

    def before_step(self, runner: Runner) -> None:
        """Prune and grow every ``interval`` steps.

        The masks change before the step, so the step already trains the grown weights. A checkpoint therefore never contains grown
        weights that are still 0, and its zeros match its masks.
        """
        if self.steps == 0 or self.steps % self.interval:
            return
        rate = self.current_rate()
        changed = 0
        for name, mask in self.masks.items():
            generator = self._generator(self.steps, name, mask.device)
            grown, count = prune_and_grow(self._weights[name].detach(), mask, rate, generator)
            broadcast(grown)
            self.masks[name] = grown
            changed += count
        self._apply(runner.optim_wrapper.optimizer)
        self._averages_stale = True
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        runner.message_hub.update_scalar('train/density', self.density())
        runner.message_hub.update_scalar('train/prune_rate', rate)
        runner.logger.info(
            f'DynamicSparsityHook: step {self.steps}, rate {rate:.4f}: {changed} of {kept} masked weights changed, '
            f'{self.density():.4f} of all weights kept'
        )

    def current_rate(self) -> float:
        """Return the value of p after the steps so far."""
        progress = min(self.steps / self._total_steps, 1)
        return self.final_rate + (self.rate - self.final_rate) * (1 + math.cos(math.pi * progress)) / 2

    def _generator(self, occasion: int | str, name: str, device: torch.device | str) -> torch.Generator:
        """Return a generator that depends only on the seed, the occasion, and the layer, so all ranks and resumed runs agree."""
        digest = hashlib.sha256(f'{self.seed}/{occasion}/{name}'.encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], 'big'))


@HOOKS.register_module()
class FixedSparsityHook(SparsityHook):
    """Keep the zeros of the weights that training starts from, for downstream training and fine-tuning.

    A layer is dense if at least 99% of its weights are nonzero. If no layer is sparse, the hook changes nothing and logs that.

    Args:
        prefix (str): Only parameters whose name starts with it are masked. Defaults to 'backbone.'.
    """

    def __init__(self, prefix='backbone.'):
        super().__init__(prefix)

    def initial_masks(self, runner: Runner, model: nn.Module) -> dict[str, Tensor]:
        """Return the masks of the loaded weights' zeros."""
        masks = mask_of_zeros(self._weights, shared_kernels(model))
        if not masks:
            runner.logger.info(f'FixedSparsityHook: no weight under {self.prefix!r} is sparse; all weights are trained')
        return masks
