"""The PeLK backbone (CVPR 2024, arXiv 2403.07589)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmpelk.ops import PeripheralConv2d, SharingGrid
from mmpelk.ops.backends import check_backend_name
from mmpelk.ops.functional import check_pos_embed_mode
from mmpelk.ops.layout import memory_format
from mmpelk.ops.resizing import check_resize_mode
from mmpelk.utils.arguments import check_flags, is_int, is_number
from mmpelk.utils.errors import InputError

from .block import LayerNorm2d, PeLKBlock, PeLKStage
from .state_dict import describe_change, resize_stages

NUM_STAGES = 4
KERNEL_FORMS = ('peripheral', 'dense', 'stripe')
MIN_INPUT = 32


# OpenMMLab's LearningRateDecayOptimizerConstructor looks for 'ConvNeXt' in the name of the class. PeLK has the layout of ConvNeXt.
@MODELS.register_module(name='PeLK')
class PeLKConvNeXt(BaseModule):
    """PeLK: the layout of ConvNeXt with peripheral convolutions of 101x101 and larger.

    `PeLK: Parameter-efficient Large Kernel ConvNets with Peripheral Convolution <https://arxiv.org/abs/2403.07589>`_

    Args:
        arch (str | dict): The paper's sizes 'tiny', 'small', and 'base', ConvNeXt's other sizes 'atto', 'femto', 'pico', 'nano',
            'large', and 'xlarge', or a dict with four ``depths`` and four ``channels``. Defaults to 'tiny'.
        in_channels (int): Number of input channels. Defaults to 3.
        kernel_sizes (Sequence[int]): Kernel size of each stage. Defaults to (51, 49, 47, 13).
        center_size (int | Sequence[int]): Size of the kernels' fine-grained center, for all stages or for each one.
            Defaults to 5.
        grid_base (int): Growth factor m of the cells outside the center (Eq. 2). Defaults to 2.
        sharing_grids (Sequence[Sequence[int]], optional): Explicit half grids, outermost cell first, one per stage. They replace
            ``kernel_sizes``, ``center_size``, and ``grid_base``. Defaults to None.
        kernel_form (str): 'peripheral' shares weights within the cells of the grids, 'dense' has a weight for every tap (RepLKNet),
            and 'stripe' sums a k x 5 and a 5 x k kernel (SLaK). Stripes have no h, so ``pos_embed`` must be None.
            Defaults to 'peripheral'.
        resize_mode (str): How weights from other grids are resized on loading, 'extend' or 'stretch'. See
            :func:`mmpelk.ops.resize_weight`. Defaults to 'extend'.
        pos_embed (str, optional): 'shared' for one h of shape (1, k, k) per stage, 'per_channel' for one of shape
            (convolved channels, k, k) per stage, None for no h (section 4.2). Defaults to 'shared'.
        pos_embed_mode (str): 'literal' adds h at every tap (Eq. 3), 'inside' only at taps that lie inside the map.
            Defaults to 'literal'.
        conv_ratio (float): Fraction of the channels that are convolved (section 4.3). Defaults to 3/8.
        small_kernel (int, optional): Kernel size of the re-parameterized small branch; None for no branch. Defaults to 5.
        width_factor (float): Factor by which the number of channels is multiplied. The product is rounded down. Defaults to 1.3.
        drop_path_rate (float): Stochastic depth rate of the last block; it rises linearly from 0. Defaults to 0.
        layer_scale_init_value (float): Initial value of the layer scale; 0 for no layer scale. Defaults to 1e-6.
        use_grn (bool): Whether the MLPs have the Global Response Normalization of ConvNeXt V2, which has no layer scale.
            Defaults to False.
        out_indices (Sequence[int]): Stages whose output is returned, each after its own LayerNorm.
            Defaults to (0, 1, 2, 3).
        gap_before_final_norm (bool): Whether to average the map before the norm of the output, as ConvNeXt's classifiers do. Outputs
            then have shape (N, C). Defaults to False.
        frozen_stages (int): -1 freezes nothing, 0 the stem, n the stem and the first n stages. Defaults to -1.
        norm_eval (bool): Whether to keep BatchNorm in eval mode during training. Defaults to False.
        with_cp (bool): Whether to recompute the MLPs in the backward pass to save memory. Defaults to False.
        norm_cfg (dict, optional): Norm of the convolution branches; None for no norms and a bias instead.
            Defaults to ``dict(type='BN')``.
        deploy (str, optional): Build the model in the form that :meth:`switch_to_deploy` produces, for checkpoints that
            tools/deploy.py wrote: 'plain', or 'grid' to keep the grids. Defaults to None.
        backend (str): How convolutions are evaluated: 'auto', or one of ``mmpelk.ops.available_backends()``.
            Defaults to 'auto'.
        init_cfg (dict, optional): mmengine's initialization config; None keeps the constructor's initialization.

    Raises:
        ValueError: If an argument is invalid; the message names it.
    """

    arch_settings = {
        'atto': dict(depths=(2, 2, 6, 2), channels=(40, 80, 160, 320)),
        'femto': dict(depths=(2, 2, 6, 2), channels=(48, 96, 192, 384)),
        'pico': dict(depths=(2, 2, 6, 2), channels=(64, 128, 256, 512)),
        'nano': dict(depths=(2, 2, 8, 2), channels=(80, 160, 320, 640)),
        'tiny': dict(depths=(3, 3, 9, 3), channels=(96, 192, 384, 768)),
        'small': dict(depths=(3, 3, 27, 3), channels=(96, 192, 384, 768)),
        'base': dict(depths=(3, 3, 27, 3), channels=(128, 256, 512, 1024)),
        'large': dict(depths=(3, 3, 27, 3), channels=(192, 384, 768, 1536)),
        'xlarge': dict(depths=(3, 3, 27, 3), channels=(256, 512, 1024, 2048)),
    }

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        kernel_sizes: Sequence[int] = (51, 49, 47, 13),
        center_size: int | Sequence[int] = 5,
        grid_base: int = 2,
        sharing_grids: Sequence[Sequence[int]] | None = None,
        kernel_form: str = 'peripheral',
        resize_mode: str = 'extend',
        pos_embed: str | None = 'shared',
        pos_embed_mode: str = 'literal',
        conv_ratio: float = 3 / 8,
        small_kernel: int | None = 5,
        width_factor: float = 1.3,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        use_grn: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        gap_before_final_norm: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        norm_cfg: dict | None = dict(type='BN'),
        deploy: str | None = None,
        backend: str = 'auto',
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_flags(use_grn=use_grn, gap_before_final_norm=gap_before_final_norm, norm_eval=norm_eval, with_cp=with_cp)
        self.depths, self.channels = depths, channels = self._resolve_arch(arch, width_factor)
        self.kernel_form = kernel_form
        self.resize_mode = resize_mode
        self.grids = self._resolve_grids(kernel_sizes, center_size, grid_base, sharing_grids)
        self.out_indices = _check_out_indices(out_indices)
        self.gap_before_final_norm = gap_before_final_norm
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        if norm_cfg is not None and not (isinstance(norm_cfg, dict) and 'type' in norm_cfg):
            raise ValueError(f"norm_cfg must be None or a dict with a 'type', got {norm_cfg!r}")
        if not is_int(in_channels) or in_channels < 1:
            raise ValueError(f'in_channels must be a positive integer, got {in_channels!r}')
        if not is_number(layer_scale_init_value) or layer_scale_init_value < 0:
            raise ValueError(f'layer_scale_init_value must be a number of at least 0, got {layer_scale_init_value!r}')
        self._check(pos_embed, pos_embed_mode, conv_ratio, small_kernel, drop_path_rate, backend)

        self.downsample_layers = nn.ModuleList()
        self.stages = nn.ModuleList()
        drop_rates = [drop_path_rate * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        for i, (depth, width) in enumerate(zip(depths, channels, strict=True)):
            self.downsample_layers.append(self._downsample_layer(i, in_channels))
            stage = PeLKStage(
                *(
                    PeLKBlock(
                        width,
                        drop_path_rate=drop_rates.pop(0),
                        layer_scale_init_value=layer_scale_init_value,
                        use_grn=use_grn,
                        with_cp=with_cp,
                        grid=self.grids[i],
                        conv_ratio=conv_ratio,
                        small_kernel=small_kernel,
                        pos_embed_mode=pos_embed_mode,
                        norm_cfg=norm_cfg,
                        backend=backend,
                        stripes=kernel_form == 'stripe',
                    )
                    for _ in range(depth)
                )
            )
            if pos_embed is not None:
                stage[0].token_mixer.own_pos_embed(per_channel=pos_embed == 'per_channel')
            self.stages.append(stage)
            if i in self.out_indices:
                self.add_module(f'norm{i}', LayerNorm2d(width, eps=1e-6))
        self._reset_parameters()
        if deploy is not None:
            self._build_deployed(deploy)
        self._freeze_stages()

    def _build_deployed(self, deploy: str) -> None:
        if deploy not in ('plain', 'grid'):
            raise ValueError(f"deploy must be None, 'plain', or 'grid', got {deploy!r}")
        if self.init_cfg:
            raise ValueError(f'deploy={deploy!r} is for folded checkpoints, which init_cfg cannot load; set only one of them')
        self.switch_to_deploy(keep_grid=deploy == 'grid')

    def _resolve_arch(self, arch: str | dict, width_factor: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the number of blocks of each stage, and its channels after widening."""
        if isinstance(arch, str):
            if arch not in self.arch_settings:
                raise ValueError(f'arch must be one of {list(self.arch_settings)} or a dict, got {arch!r}')
            arch = self.arch_settings[arch]
        if not isinstance(arch, dict) or set(arch) != {'depths', 'channels'}:
            raise ValueError(f"arch must be a name or a dict with 'depths' and 'channels', got {arch!r}")
        for name in ('depths', 'channels'):
            _check_length(f"arch['{name}']", arch[name])
            if not all(is_int(value) and value > 0 for value in arch[name]):
                raise ValueError(f"arch['{name}'] must contain positive integers, got {arch[name]!r}")
        if not is_number(width_factor) or int(width_factor * min(arch['channels'])) < 1:
            raise ValueError(f'width_factor must be a number that leaves at least one channel, got {width_factor!r}')
        return tuple(arch['depths']), tuple(int(width * width_factor) for width in arch['channels'])

    def _resolve_grids(
        self,
        kernel_sizes: Sequence[int],
        center_size: int | Sequence[int],
        grid_base: int,
        sharing_grids: Sequence[Sequence[int]] | None,
    ) -> tuple[SharingGrid, ...]:
        if not isinstance(self.kernel_form, str) or self.kernel_form not in KERNEL_FORMS:
            raise ValueError(f'kernel_form must be one of {KERNEL_FORMS}, got {self.kernel_form!r}')
        if sharing_grids is not None:
            if self.kernel_form != 'peripheral':
                raise ValueError(f"sharing_grids need kernel_form='peripheral', got {self.kernel_form!r}")
            _check_length('sharing_grids', sharing_grids)
            try:
                return tuple(SharingGrid.from_half(half) for half in sharing_grids)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f'sharing_grids must contain half grids such as [9, 8, 4, 2, 1, 1, 1], got {sharing_grids!r}: {error}'
                ) from error
        _check_length('kernel_sizes', kernel_sizes)
        try:
            if self.kernel_form != 'peripheral':
                return tuple(SharingGrid.dense(k) for k in kernel_sizes)
            centers = (center_size,) * NUM_STAGES if is_int(center_size) else center_size
            _check_length('center_size', centers)
            return tuple(SharingGrid.peripheral(k, center, grid_base) for k, center in zip(kernel_sizes, centers, strict=True))
        except ValueError as error:
            given = dict(kernel_sizes=kernel_sizes, center_size=center_size, grid_base=grid_base)
            raise ValueError(f'{error} ({", ".join(f"{name}={value!r}" for name, value in given.items())})') from error

    def _check(
        self,
        pos_embed: str | None,
        pos_embed_mode: str,
        conv_ratio: float,
        small_kernel: int | None,
        drop_path_rate: float,
        backend: str,
    ) -> None:
        if not isinstance(pos_embed, str | None) or pos_embed not in ('shared', 'per_channel', None):
            raise ValueError(f"pos_embed must be 'shared', 'per_channel', or None, got {pos_embed!r}")
        if pos_embed is not None and self.kernel_form == 'stripe':
            raise ValueError(f"kernel_form='stripe' takes no positional embedding; set pos_embed=None, got {pos_embed!r}")
        check_pos_embed_mode(pos_embed_mode)
        check_resize_mode(self.resize_mode)
        check_backend_name(backend)
        if not is_number(conv_ratio) or not 0 < conv_ratio <= 1 or int(conv_ratio * min(self.channels)) < 1:
            raise ValueError(
                f'conv_ratio must be in (0, 1] and select at least one channel, got {conv_ratio!r} for channels {self.channels}'
            )
        _check_small_kernel(small_kernel, self.grids)
        if not is_number(drop_path_rate) or not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate must be in [0, 1), got {drop_path_rate!r}')
        if not is_int(self.frozen_stages) or self.frozen_stages not in range(-1, NUM_STAGES + 1):
            raise ValueError(f'frozen_stages must be an integer between -1 and {NUM_STAGES}, got {self.frozen_stages!r}')

    def _downsample_layer(self, stage: int, in_channels: int) -> nn.Sequential:
        width = self.channels[stage]
        if stage == 0:
            return nn.Sequential(nn.Conv2d(in_channels, width, 4, stride=4), LayerNorm2d(width, eps=1e-6))
        previous = self.channels[stage - 1]
        return nn.Sequential(LayerNorm2d(previous, eps=1e-6), nn.Conv2d(previous, width, 2, stride=2))

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                # Preserve the variance of a normalized input, so that each stage's input has the scale of its convolved channels.
                nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of the stages in ``out_indices``.

        Args:
            x: (N, in_channels, H, W), with H and W at least 32. If they are not multiples of 32, the strides drop the remaining rows
                and columns.

        Returns:
            One map per stage in ``out_indices``, in the memory format of the input. Its shape is (N, C_0, H // 4, W // 4) in the first
            stage; each later stage halves the height and the width. With ``gap_before_final_norm``, the shapes are (N, C_i).

        Raises:
            InputError: If the input is smaller than 32x32.
        """
        if x.shape[-2] < MIN_INPUT or x.shape[-1] < MIN_INPUT:
            raise InputError(f'PeLK needs inputs of at least {MIN_INPUT}x{MIN_INPUT}, got {x.shape[-2]}x{x.shape[-1]}')
        given = memory_format(x)
        # Norms and MLPs work on the channels of each position. If channels are adjacent in memory, no copies are needed.
        x = x.contiguous(memory_format=torch.channels_last)
        outputs = []
        for i, (downsample, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(downsample(x))
            if i in self.out_indices:
                norm = getattr(self, f'norm{i}')
                if self.gap_before_final_norm:
                    outputs.append(norm(x.mean((2, 3), keepdim=True)).flatten(1))
                else:
                    outputs.append(norm(x).contiguous(memory_format=given))
        return tuple(outputs)

    def train(self, mode: bool = True) -> PeLKConvNeXt:
        """Set the mode. Frozen stages stay in eval mode, and so does BatchNorm with ``norm_eval``."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        frozen = []
        if self.frozen_stages >= 0:
            frozen.append(self.downsample_layers[0])
        for i in range(self.frozen_stages):
            frozen += [self.downsample_layers[i], self.stages[i]]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the depth of a parameter for layer-wise learning rate decay, as ConvNeXt defines it.

        mmpretrain's ``LearningRateDecayOptimWrapperConstructor`` calls this.

        Args:
            param_name: Name of the parameter.
            prefix: Prefix of the backbone's names.

        Returns:
            The depth, and the number of layers: 8 for third stages of up to 9 blocks, 14 for deeper ones.
        """
        last_stage = 12 if self.depths[2] > 9 else 6
        after = last_stage + 1, last_stage + 2
        if not param_name.startswith(prefix):
            return after
        module, *numbers = param_name.removeprefix(prefix).split('.')
        if module not in ('downsample_layers', 'stages'):
            return after
        stage = int(numbers[0])
        if stage == 3:
            return last_stage, last_stage + 2
        if module == 'downsample_layers':
            return (0, 2, 3)[stage], last_stage + 2
        return (stage + 1 if stage < 2 else 3 + int(numbers[1]) // 3), last_stage + 2

    def resize_kernels(
        self,
        kernel_sizes: Sequence[int] | None = None,
        center_size: int | Sequence[int] = 5,
        grid_base: int = 2,
        sharing_grids: Sequence[Sequence[int]] | None = None,
        mode: str = 'extend',
    ) -> None:
        """Resize the trained kernels and positional embeddings in place. Build the optimizer afterward.

        Args:
            kernel_sizes, center_size, grid_base, sharing_grids: The new grids, as in the constructor. Larger kernels compute the same
                outputs with ``sharing_grids=[grid.extended(k).half for grid, k in zip(model.grids, sizes, strict=True)]``.
            mode (str): See :func:`mmpelk.ops.resize_weight`.

        Raises:
            ValueError: If an argument is invalid, or the kernels are stripes or folded for deployment.
        """
        if kernel_sizes is None and sharing_grids is None:
            raise ValueError('resize_kernels needs kernel_sizes or sharing_grids')
        check_resize_mode(mode)
        grids = self._resolve_grids(kernel_sizes, center_size, grid_base, sharing_grids)
        mixers = [[block.token_mixer for block in stage] for stage in self.stages]
        if not all(isinstance(mixer.large, PeripheralConv2d) for stage in mixers for mixer in stage):
            raise ValueError(
                'only peripheral and dense kernels can be resized, not stripes or kernels that are folded for deployment'
            )
        _check_small_kernel(mixers[0][0].small and mixers[0][0].small.weight.shape[-1], grids)
        weights = self.state_dict()
        resize_stages(weights, lambda index, old: grids[index], mode)
        for grid, stage in zip(grids, mixers, strict=True):
            for mixer in stage:
                device = mixer.large.half_grid.device
                mixer.large.set_grid(grid)
                mixer.large.half_grid = mixer.large.half_grid.to(device)
                size = grid.weight_size
                mixer.large.weight = _empty_like(mixer.large.weight, (size, size))
                if mixer.pos_embed is not None:
                    mixer.pos_embed.bias = _empty_like(mixer.pos_embed.bias, mixer.large.kernel_size)
        self.grids = grids
        self.load_state_dict(weights)

    def fit_kernels(self, weights: dict[str, Tensor], prefix: str = '') -> list[str]:
        """Resize weights that were trained on other grids to this model's grids, with ``resize_mode``.

        Args:
            weights: A state dict, which is changed in place. Kernels without a ``half_grid``, or with this model's, are left unchanged.
            prefix: Prefix of this model's names in the state dict.

        Returns:
            One line of text for each stage that was resized. In mode 'extend', it says by how much the kernels changed.
        """
        if not isinstance(self.stages[0][0].token_mixer.large, PeripheralConv2d):
            return []
        before = dict(weights)
        stages = resize_stages(weights, lambda index, old: self.grids[index], self.resize_mode, f'{prefix}stages.')
        return [
            f'stage {int(name.split(".")[-2]) + 1}: kernels {_describe(old)} resized to {_describe(new)}, '
            f'mode {self.resize_mode!r}{describe_change(before, weights, name, old, new) if self.resize_mode == "extend" else ""}'
            for name, (old, new) in stages.items()
            if old != new
        ]

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for line in self.fit_kernels(state_dict, prefix):
            print_log(line, 'current')
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def switch_to_deploy(self, keep_grid: bool = False) -> None:
        """Fold positional embeddings, BatchNorms, and branches into the convolutions. Outputs in eval mode stay equal.

        Args:
            keep_grid: False leaves each block with one plain depthwise convolution, which any framework can run. True keeps grids and
                stripes, and with them their speed. A small branch that is larger than the grid's fine center stays separate.

        Raises:
            ValueError: If the model was built with ``pos_embed_mode='inside'``, or its norms are not BatchNorms.
        """
        for stage in self.stages:
            stage.switch_to_deploy(keep_grid)


PeLK = PeLKConvNeXt


def _check_length(name: str, values: Sequence) -> None:
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != NUM_STAGES:
        raise ValueError(f'{name} needs {NUM_STAGES} entries, one per stage, got {values!r}')


def _check_small_kernel(small_kernel: int | None, grids: Sequence[SharingGrid]) -> None:
    smallest = min(grid.kernel_size for grid in grids)
    is_size = is_int(small_kernel) and small_kernel % 2 == 1 and 0 < small_kernel <= smallest
    if small_kernel is not None and not is_size:
        raise ValueError(f'small_kernel must be None or odd and at most the smallest kernel {smallest}, got {small_kernel!r}')


def _check_out_indices(out_indices: Sequence[int]) -> tuple[int, ...]:
    """Return the indices as a tuple, or raise ValueError unless they are different stages."""
    is_list = isinstance(out_indices, Sequence) and not isinstance(out_indices, str)
    if not is_list or not out_indices or not all(is_int(i) and i in range(NUM_STAGES) for i in out_indices):
        raise ValueError(f'out_indices must be stages from 0 to {NUM_STAGES - 1}, got {out_indices!r}')
    if len(set(out_indices)) < len(out_indices):
        raise ValueError(f'out_indices must be different stages, got {out_indices!r}')
    return tuple(out_indices)


def _empty_like(parameter: nn.Parameter, size: tuple[int, int]) -> nn.Parameter:
    """Return an uninitialized parameter with another height and width."""
    return nn.Parameter(parameter.new_empty((*parameter.shape[:-2], *size)), requires_grad=parameter.requires_grad)


def _describe(grid: SharingGrid) -> str:
    return f'{grid.kernel_size}x{grid.kernel_size} (half grid {list(grid.half)})'
