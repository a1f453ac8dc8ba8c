"""An image tower without its pooling: one vector for every cell of a grid over the picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.model import TimmModel  # the class that it builds: `lean_imports` reloads the module that defines it
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from zsclip.errors import ModelError
from zsclip.models.last_block import last_block
from zsclip.models.torch_encoder import ClipModel, tuned_for
from zsclip.models.towers import OneTokenBlock

_REACH = 5.0  # cells: the standard deviation of NACLIP's Gaussian, for every size of grid
_EXACT = 1e-4  # how far the mean of the cells may be from the embedding, as a part of its length
_LINEAR = (nn.Linear, nn.Identity, nn.Dropout)
Cells = Callable[[Tensor], Tensor]  # (B, 3, H, W) -> (B, h, w, D)


@dataclass(frozen=True, eq=False)
class Patches:
    """Pictures, cell by cell.

    embeddings: (B, D) float32, rows of length 1; None if they were not wanted and not needed.
    cells: (B, h, w, D) float32. If `is_exact`, the mean over the cells of a picture is its embedding, so the products
    of the cells with a class average to its cosine; else each cell has length 1, and its product is a cosine itself.
    """

    embeddings: NDArray[np.float32] | None
    cells: NDArray[np.float32]
    is_exact: bool


@torch.no_grad()
def encode_patches(model: ClipModel, pixels: Sequence[NDArray[np.uint8]], *, with_embeddings: bool = True) -> Patches:
    """Encode pictures, as a whole and cell by cell.

    Args:
        model: in fp32, as less would not show whether the decomposition is exact.
        pixels: B of (3, H, W) uint8, in the size of the model's preprocessing.
        with_embeddings: if not, a tower whose cells need not be checked runs only once.

    Raises:
        ModelError: the tower mixes its cells in a way that cannot be taken apart.
    """
    assert model.precision == "fp32"
    tower = model.tower
    cells_of = _cells_of(tower)
    if cells_of is None:
        raise _cannot(model)
    is_checked = isinstance(tower, TimmModel)
    embeddings = model.encode_images(pixels) if with_embeddings or is_checked else None  # (B, D)
    with tuned_for(model.device):
        cells = cells_of(model.normalised(torch.from_numpy(np.stack(pixels)).to(model.device))).cpu()  # (B, h, w, D)
    if embeddings is None or not is_checked:
        whole = None if embeddings is None else embeddings.numpy()
        return Patches(whole, F.normalize(cells, dim=-1).numpy(), is_exact=False)
    means = cells.mean(dim=(1, 2))  # (B, D)
    lengths = means.norm(dim=-1, keepdim=True).clip(1e-12)
    if not torch.allclose(means / lengths, embeddings, rtol=0, atol=_EXACT):
        raise _cannot(model)
    return Patches(embeddings.numpy(), (cells / lengths[:, None, None]).numpy(), is_exact=True)


def _cannot(model: ClipModel) -> ModelError:
    return ModelError(f"{model.spec.name}: its image tower does not show where it looks; use tiny or base")


def _cells_of(tower: nn.Module) -> Cells | None:
    """Give what computes the cells of a tower; None if its cells cannot be told apart."""
    if isinstance(tower, TimmModel) and all(isinstance(each, _LINEAR) for each in tower.head):
        return lambda images: _of_timm(tower, images)
    if isinstance(tower, ModifiedResNet):
        return lambda images: _of_resnet(tower, images)
    if isinstance(tower, VisionTransformer) and tower.attn_pool is None:
        last = tower.transformer.resblocks[-1]
        block = last.block if isinstance(last, OneTokenBlock) else last_block(tower.transformer)
        return None if block is None else lambda images: _of_transformer(tower, block, images)
    return None


def _of_timm(tower: TimmModel, images: Tensor) -> Tensor:
    """Project each cell by itself: what follows the pooling is linear, so projecting and averaging may change places.

    Whether it is linear in the trunk's own head, too, shows in the result.
    """
    features = tower.trunk.forward_features(images)
    if features.dim() != 4 or features.shape[1] != tower.trunk.num_features:
        return features.new_zeros(len(images), 1, 1, 1)
    count, width, *grid = features.shape
    alone = features.permute(0, 2, 3, 1).reshape(-1, width, 1, 1)  # (B h w, C, 1, 1)
    return tower.head(tower.trunk.forward_head(alone)).view(count, *grid, -1)


def _of_resnet(tower: ModifiedResNet, images: Tensor) -> Tensor:
    """Send each cell through the values of the pooling's attention alone.

    Source: Zhou et al. 2022 (MaskCLIP), section 3.2.
    """
    x = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(images)))))  # (B, C, h, w)
    pool = tower.attnpool
    return pool.c_proj(pool.v_proj(x.permute(0, 2, 3, 1)))


def _of_transformer(tower: VisionTransformer, block: ResidualAttentionBlock, images: Tensor) -> Tensor:
    """Let each patch attend to those with similar keys, and to its neighbours, in the last block.

    Without the residual, which is about the whole picture, and without the MLP.
    Source: Hajimiri et al. 2024 (NACLIP, arXiv 2404.08181), sections 3.2 and 3.3.
    """
    x = tower._embeds(images)
    for each in tower.transformer.resblocks[:-1]:
        x = each(x)
    attn = block.attn
    _, k, v = (
        F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        .unflatten(2, (3, attn.num_heads, -1))
        .permute(2, 0, 3, 1, 4)
    )  # each (B, heads, T, W / heads)
    near = _nearness(*tower.grid_size).to(x)
    attended = F.scaled_dot_product_attention(k, k, v, attn_mask=near).transpose(1, 2).flatten(2)  # (B, T, W)
    patches = tower.ln_post(block.ls_1(attn.out_proj(attended)))[:, 1:] @ tower.proj
    return patches.unflatten(1, tower.grid_size)


def _nearness(height: int, width: int) -> Tensor:
    """Give what is added to the attention of h w patches and the class token before them; (T, T)."""
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width)).float()  # (h w, 2)
    near = torch.exp(-torch.cdist(places, places).square() / (2 * _REACH**2))
    return F.pad(near, (1, 0, 1, 0))
