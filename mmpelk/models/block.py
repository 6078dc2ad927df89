"""The blocks of PeLK and the stages that consist of them."""

from __future__ import annotations

import torch
import torch.nn as nn
from mmcv.cnn.bricks import DropPath
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmpelk.utils.torch_compat import autocast_dtype

from .plain_inference import is_plain_inference
from .token_mixer import TokenMixer

# In inference, the hidden layer of an MLP is computed in pieces of this many bytes. On 2 cores of an Intel Xeon, pieces of 0.5 MB were
# 16% slower, and computing whole maps of 512x512 images at once was 9 to 11% slower (torch 2.13, 2026-11-23).
HIDDEN_BYTES = 2**22


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an (N, C, H, W) map. The result is in channels_last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GRN(nn.Module):
    """Global Response Normalization of ConvNeXt V2, for (N, H, W, C) maps. It starts as the identity.

    `ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders <https://arxiv.org/abs/2301.00808>`_
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        response = (norm / (norm.mean(-1, keepdim=True) + 1e-6)).to(x.dtype)
        return self.gamma * (x * response) + self.beta + x


class PeLKBlock(nn.Module):
    """Token mixer -> LayerNorm -> MLP -> layer scale -> drop path, added to the input (section 4.4).

    Args:
        channels: C.
        drop_path_rate: Probability of dropping the block's branch for an image.
        layer_scale_init_value: Initial value of the layer scale; 0 for no layer scale.
        use_grn: Whether the MLP has a Global Response Normalization.
        with_cp: Whether to recompute the MLP in the backward pass. The MLP uses most of the block's memory, and has no running
            statistics that recomputing would update a second time.
        mixer: Arguments of :class:`TokenMixer`.
    """

    def __init__(
        self, channels: int, drop_path_rate: float, layer_scale_init_value: float, use_grn: bool, with_cp: bool, **mixer
    ) -> None:
        super().__init__()
        self.token_mixer = TokenMixer(channels, **mixer)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pointwise_conv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.grn = GRN(4 * channels) if use_grn else nn.Identity()
        self.pointwise_conv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale_init_value)) if layer_scale_init_value > 0 else None
        self.drop_path = DropPath(drop_path_rate)
        self.with_cp = with_cp

    def forward(self, x: Tensor, pos_embed: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W). ``pos_embed`` is the positional embedding h of the stage."""
        # Linear layers and norms work on the channels of each position: (N, H, W, C).
        x, mixed = x.permute(0, 2, 3, 1), self.token_mixer(x, pos_embed).permute(0, 2, 3, 1)
        if self._runs_in_pieces(x, mixed):
            x = self._add_mlp_in_pieces(x, mixed)
        else:
            recompute = self.with_cp and torch.is_grad_enabled()
            x = x + self.drop_path(checkpoint(self._mlp, mixed, use_reentrant=False) if recompute else self._mlp(mixed))
        return x.permute(0, 3, 1, 2)

    def _mlp(self, x: Tensor) -> Tensor:
        x = self.pointwise_conv2(self.grn(self.act(self.pointwise_conv1(self.norm(x)))))
        return x if self.gamma is None else x * self.gamma

    def _runs_in_pieces(self, x: Tensor, mixed: Tensor) -> bool:
        """Return whether the MLP runs in inference on a CPU, where its hidden layer should stay in the cache."""
        if self.training or autocast_dtype('cpu') is not None or not is_plain_inference(x.device):
            return False
        if isinstance(self.grn, GRN):  # it needs all positions of an image
            return False
        return x.dtype == mixed.dtype and x.is_contiguous() and mixed.is_contiguous()

    def _add_mlp_in_pieces(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Compute ``x + mlp(mixed)`` for (N, H, W, C) in pieces whose hidden layers have about ``HIDDEN_BYTES``."""
        output, channels = torch.empty_like(x), x.shape[-1]
        positions = max(1, HIDDEN_BYTES // (4 * channels * x.element_size()))
        pieces = (tensor.view(-1, channels).split(positions) for tensor in (x, mixed, output))
        for x_piece, mixed_piece, output_piece in zip(*pieces, strict=True):
            torch.add(x_piece, self._mlp(mixed_piece), out=output_piece)
        return output


class PeLKStage(nn.Sequential):
    """The blocks at one resolution, which share one positional embedding h.

    The first block holds h. A parameter of the stage itself would break the name pattern ``stages.{i}.{j}.*`` that OpenMMLab's
    layer-decay constructors parse.
    """

    def forward(self, x: Tensor) -> Tensor:
        pos_embed = self.pos_embed
        for block in self:
            x = block(x, pos_embed)
        return x

    @property
    def pos_embed(self) -> Tensor | None:
        """The h that all kernels of the stage share, (1 or convolved channels, k, k), or None."""
        owner = self[0].token_mixer.pos_embed
        return None if owner is None else owner.bias

    def switch_to_deploy(self, keep_grid: bool) -> None:
        """See :meth:`PeLKConvNeXt.switch_to_deploy`."""
        pos_embed = self.pos_embed
        for block in self:
            block.token_mixer.switch_to_deploy(pos_embed, keep_grid)
