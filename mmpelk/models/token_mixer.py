"""The token mixer: a large-kernel convolution on part of the channels, with a small branch that merges into it."""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmpelk.ops import DepthwiseConv2d, PeripheralConv2d, SharingGrid, depthwise_conv2d, peripheral_conv2d, pos_embed_term
from mmpelk.ops.partial import fork, join

from .plain_inference import is_plain_inference

DEFAULT_STRIPE_WIDTH = 5


class StripeConv(nn.Module):
    """SLaK's replacement for a k x k kernel: the sum of a k x w and a w x k depthwise convolution, each with its own norm.

    Args:
        channels: C.
        kernel_size: Odd length k of the stripes.
        width: Odd width w of the stripes.
        norm_cfg: Config of the stripes' norms; None for no norms.
        norm_scale: Initial weight of the norms.
        backend: See :func:`mmpelk.ops.depthwise_conv2d`.
    """

    def __init__(
        self, channels: int, kernel_size: int, width: int, norm_cfg: dict | None, norm_scale: float, backend: str
    ) -> None:
        super().__init__()
        self.backend = backend
        self.vertical = DepthwiseConv2d(channels, (kernel_size, width), bias=norm_cfg is None, backend=backend)
        self.vertical_norm = _branch_norm(norm_cfg, channels, norm_scale)
        self.horizontal = DepthwiseConv2d(channels, (width, kernel_size), bias=False, backend=backend)
        self.horizontal_norm = _branch_norm(norm_cfg, channels, norm_scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        return sum(norm(conv(x)) for conv, norm in self.branches())

    def branches(self) -> tuple[tuple[DepthwiseConv2d, nn.Module], ...]:
        """Return the stripes, each with its norm."""
        return (self.vertical, self.vertical_norm), (self.horizontal, self.horizontal_norm)


class PosEmbed(nn.Module):
    """The kernel-wise positional embedding h that the kernels of a stage share.

    In Eq. 3 the h term is a constant per channel. The parameter is named ``bias`` so that OpenMMLab's optimizer constructors exclude
    it from weight decay.

    Args:
        channels: 1, or the number of convolved channels.
        kernel_size: k.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(nn.init.trunc_normal_(torch.empty(channels, kernel_size, kernel_size), std=0.02))


class TokenMixer(nn.Module):
    """Partial peripheral convolution (Eq. 4-6) with a re-parameterized small branch.

    The first ``int(conv_ratio * C)`` channels are convolved, and the others pass through unchanged::

        x -> split -> BN(large kernel) + BN(small kernel) + <w, h> -> concat
                   -> unchanged ------------------------------------>

    The constant <w, h> of Eq. 3 is added after the BatchNorm, which would remove it. ``norm_cfg=None`` removes the BatchNorms and gives
    the large kernel a bias instead. ``small_kernel=None`` removes only the small branch. In the stripe form, BN(large kernel) is
    BN(k x w) + BN(w x k). If the BatchNorms are in eval mode and the small kernel lies inside the grid's fine center, the token mixer
    runs as one partial convolution on the grid.

    Args:
        channels: C.
        grid: Sharing grid of the large kernel.
        conv_ratio: Fraction of the channels that are convolved.
        small_kernel: Odd kernel size of the small branch, at most the size of the large kernel; None for no branch.
        pos_embed_mode: See :func:`mmpelk.ops.pos_embed_term`.
        norm_cfg: Config of the branches' norms; None for no norms.
        backend: See :func:`mmpelk.ops.peripheral_conv2d`.
        stripes: Whether the large kernel consists of two stripes. Their width is the size of the small kernel, or 5 without one.
    """

    def __init__(
        self,
        channels: int,
        grid: SharingGrid,
        conv_ratio: float,
        small_kernel: int | None,
        pos_embed_mode: str,
        norm_cfg: dict | None,
        backend: str,
        stripes: bool,
    ) -> None:
        super().__init__()
        self.conv_channels = int(conv_ratio * channels)
        self.pos_embed_mode = pos_embed_mode
        self.pos_embed: PosEmbed | None = None
        self._merged: tuple[list[Tensor], tuple[Tensor, Tensor]] | None = None
        has_small = small_kernel is not None
        # The sum of the branches has a variance of 1, which is the scale of the channels that pass through unchanged.
        norm_scale = (1 + stripes + has_small) ** -0.5
        if stripes:
            width = small_kernel or DEFAULT_STRIPE_WIDTH
            self.large = StripeConv(self.conv_channels, grid.kernel_size, width, norm_cfg, norm_scale, backend)
            self.large_norm = nn.Identity()
        else:
            self.large = PeripheralConv2d(self.conv_channels, grid, bias=norm_cfg is None, backend=backend)
            self.large_norm = _branch_norm(norm_cfg, self.conv_channels, norm_scale)
        self.small = DepthwiseConv2d(self.conv_channels, small_kernel, bias=False, backend=backend) if has_small else None
        self.small_norm = _branch_norm(norm_cfg, self.conv_channels, norm_scale) if has_small else None

    def own_pos_embed(self, per_channel: bool) -> None:
        """Create the h of the stage in this mixer: (convolved channels, k, k) if ``per_channel``, otherwise (1, k, k)."""
        self.pos_embed = PosEmbed(self.conv_channels if per_channel else 1, self.large.grid.kernel_size)

    def forward(self, x: Tensor, pos_embed: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W). ``pos_embed`` is the h of the stage, (1 or convolved channels, k, k)."""
        if self._is_one_convolution(pos_embed):
            return self._convolve(x, *self._merge_or_reuse(pos_embed))
        branches = [(self.large, self.large_norm)]
        if self.small is not None:
            branches.append((self.small, self.small_norm))
        inputs, passed = fork(x, self.conv_channels, len(branches))
        parts = [norm(conv(part)) for (conv, norm), part in zip(branches, inputs, strict=True)]
        if pos_embed is not None:
            size = tuple(x.shape[-2:])
            term = pos_embed_term(self.large.weight, self.large.grid, pos_embed, size, self.pos_embed_mode)
            parts[0] = parts[0] + term.to(parts[0].dtype)
        return join(parts, passed)

    def _merge_or_reuse(self, pos_embed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Merge the branches, norms, and h into one weight and one bias. In plain inference, reuse them until a value changes."""
        if not is_plain_inference(self.large.weight.device):
            return self._merge_on_grid(pos_embed)
        sources = [*self.parameters(), *self.buffers(), *([] if pos_embed is None else [pos_embed])]
        # The values are compared, because changes through ``.data`` do not increase the version counter.
        if self._merged is None or not _all_equal(sources, self._merged[0]):
            copies = [source.detach().clone() for source in sources]
            self._merged = copies, self._merge_on_grid(pos_embed)
        return self._merged[1]

    def __getstate__(self) -> dict:
        """Exclude the reused weights from copies and pickles."""
        return {**self.__dict__, '_merged': None}

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Apply the large convolution with the given weight and bias to the first channels, and pass the others through."""
        if isinstance(self.large, PeripheralConv2d):
            return peripheral_conv2d(x, weight, self.large.grid, bias=bias, backend=self.large.backend, partial=True)
        return depthwise_conv2d(x, weight, bias, self.large.backend, partial=True)

    def _merge_on_grid(self, pos_embed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Merge the branches, norms, and h into one weight on the grid and one bias."""
        return self._merge([_fold_norm(self.large, self.large_norm)], pos_embed)

    def _merge(self, folded: list[tuple[Tensor, Tensor]], pos_embed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Merge the folded parts of the large kernel, the small branch, and h into one weight and one bias."""
        if self.small is not None:
            folded = [*folded, _fold_norm(self.small, self.small_norm)]
        size = max(kernel.shape[-2] for kernel, _ in folded)
        weight = sum(_pad_to(kernel, size) for kernel, _ in folded)
        bias = sum(bias for _, bias in folded)
        return weight, bias if pos_embed is None else bias + self._constant(pos_embed)

    def _constant(self, pos_embed: Tensor | None) -> Tensor | float:
        """Return <w, h>, (C,). It is a constant per channel in literal mode."""
        if pos_embed is None:
            return 0.0
        return pos_embed_term(self.large.weight, self.large.grid, pos_embed, (1, 1))[:, 0, 0]

    def _is_one_convolution(self, pos_embed: Tensor | None) -> bool:
        """Return whether the branches, norms, and h are one convolution on the grid in the current mode."""
        if isinstance(self.large, StripeConv) or (self.small is not None and not self._grid_holds_small()):
            return False
        if not all(norm is None or _is_affine(norm) for norm in (self.large_norm, self.small_norm)):
            return False
        return pos_embed is None or self.pos_embed_mode == 'literal'

    def _grid_holds_small(self) -> bool:
        """Return whether there is a small kernel that lies on cells of one tap."""
        if self.small is None or not isinstance(self.large, PeripheralConv2d):
            return False
        cells, around = self.large.grid.cells, (self.large.grid.weight_size - self.small.weight.shape[-1]) // 2
        return around >= 0 and set(cells[around : len(cells) - around]) == {1}

    @torch.no_grad()
    def switch_to_deploy(self, pos_embed: Tensor | None, keep_grid: bool = False) -> None:
        """Fold the grid or stripes, the branch, the norms, and h into one plain depthwise convolution with the output of eval mode.

        With ``keep_grid``, the norms and h are folded into the existing convolutions. The small branch is folded too if it lies inside
        the grid's fine center.

        Raises:
            ValueError: If ``pos_embed_mode`` is 'inside', whose term depends on the position, or a norm is not a BatchNorm with running
                statistics.
        """
        if pos_embed is not None and self.pos_embed_mode == 'inside':
            raise ValueError("pos_embed_mode='inside' adds a term that depends on the position; it cannot be folded into a bias")
        if keep_grid:
            self._fold_each(pos_embed)
        elif not isinstance(self.large, DepthwiseConv2d):
            self._fold_into_one(pos_embed)
        self.pos_embed = None

    def _fold_into_one(self, pos_embed: Tensor | None) -> None:
        if isinstance(self.large, StripeConv):
            folded = [_fold_norm(conv, norm) for conv, norm in self.large.branches()]
        else:
            kernel, bias = _fold_norm(self.large, self.large_norm)
            folded = [(self.large.grid.expand(kernel), bias)]
        weight, bias = self._merge(folded, pos_embed)
        merged = DepthwiseConv2d(self.conv_channels, tuple(weight.shape[-2:]), bias=True, backend=self.large.backend)
        self.large, self.large_norm = merged, nn.Identity()
        _set(self.large, weight, bias)
        self.small = self.small_norm = None

    def _fold_each(self, pos_embed: Tensor | None) -> None:
        if self._grid_holds_small():
            _set(self.large, *self._merge_on_grid(pos_embed))
            self.small = self.small_norm = None
        elif isinstance(self.large, StripeConv):
            for conv, norm in self.large.branches():
                _set(conv, *_fold_norm(conv, norm))
            self.large.vertical_norm = self.large.horizontal_norm = nn.Identity()
        else:
            kernel, bias = _fold_norm(self.large, self.large_norm)
            _set(self.large, kernel, bias + self._constant(pos_embed))
        self.large_norm = nn.Identity()
        if self.small is not None:
            _set(self.small, *_fold_norm(self.small, self.small_norm))
            self.small_norm = nn.Identity()


def _branch_norm(norm_cfg: dict | None, channels: int, scale: float) -> nn.Module:
    """Build the norm of a branch, with its weight initialized to ``scale``. None gives no norm."""
    if norm_cfg is None:
        return nn.Identity()
    norm = build_norm_layer(norm_cfg, channels)[1]
    nn.init.constant_(norm.weight, scale)
    return norm


def _is_affine(norm: nn.Module) -> bool:
    """Return whether the norm is a constant affine map: no norm, or a BatchNorm in eval mode with running statistics."""
    return isinstance(norm, nn.Identity) or (isinstance(norm, _BatchNorm) and not norm.training and norm.track_running_stats)


def _fold_norm(conv: PeripheralConv2d | DepthwiseConv2d, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the weight and the (C,) bias of a convolution followed by a BatchNorm in eval mode.

    Raises:
        ValueError: If the norm is not a BatchNorm with running statistics.
    """
    bias = conv.weight.new_zeros(conv.weight.shape[0]) if conv.bias is None else conv.bias
    if isinstance(norm, nn.Identity):
        return conv.weight, bias
    if not isinstance(norm, _BatchNorm) or norm.running_var is None:
        raise ValueError(f'{norm} computes statistics of its input; only a BatchNorm with running statistics can be folded')
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return conv.weight * scale.view(-1, 1, 1, 1), norm.bias + (bias - norm.running_mean) * scale


def _all_equal(tensors: list[Tensor], others: list[Tensor]) -> bool:
    return len(tensors) == len(others) and all(
        tensor.dtype == other.dtype and torch.equal(tensor, other) for tensor, other in zip(tensors, others, strict=True)
    )


def _set(conv: PeripheralConv2d | DepthwiseConv2d, weight: Tensor, bias: Tensor) -> None:
    conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())


def _pad_to(kernel: Tensor, size: int) -> Tensor:
    """Pad a (C, 1, kh, kw) kernel with zeros to (C, 1, size, size)."""
    rows, columns = ((size - length) // 2 for length in kernel.shape[-2:])
    return F.pad(kernel, (columns, columns, rows, rows))
