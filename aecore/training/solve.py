"""What is solved rather than trained: the images' moments, principal components, the whitening of a trained code."""

from __future__ import annotations

import numpy as np
import torch

from aecore.data.images import Images
from aecore.models.autoencoder import Autoencoder
from aecore.models.bottlenecks import Whitening
from aecore.models.pca import fit_images
from aecore.training.engine import BLOCK, pixels


def solve_pca(model: Autoencoder, images: Images, seed: int) -> bool:
    """Fill the linear autoencoder with principal components of the training split; returns whether they are exact."""
    pca = fit_images(images, model.latent_dim, seed)
    mean, components = torch.from_numpy(pca.mean), torch.from_numpy(pca.components)
    with torch.no_grad():
        down, up = model.encoder[0], model.decoder[0]  # type: ignore[index]
        down.weight.copy_(components)
        down.bias.copy_(-(components @ mean))
        up.weight.copy_(components.T)
        up.bias.copy_(mean)
    return pca.exact


def channel_moments(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each channel over the training images, each (C,), in [0, 1] units."""
    positions, channels = images.positions("train"), images.shape[0]
    count, total, squares = 0, np.zeros(channels), np.zeros(channels)
    for start in range(0, len(positions), BLOCK):
        rows = images.rows(positions[start : start + BLOCK]).astype(np.float32) / 255
        count += rows.size // channels
        total += rows.sum(axis=(0, 2, 3), dtype=np.float64)
        squares += np.square(rows).sum(axis=(0, 2, 3), dtype=np.float64)
    mean = total / count
    scale = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return torch.from_numpy(mean).float(), torch.from_numpy(scale).float()


@torch.inference_mode()
def code_moments(model: Autoencoder, images: Images, split: str, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and covariance (d, d) of a split's codes, float64; the model is left evaluating."""
    model.eval()
    positions, d = images.positions(split), model.latent_dim
    total = torch.zeros(d, dtype=torch.float64, device=device)
    products = torch.zeros(d, d, dtype=torch.float64, device=device)
    for start in range(0, len(positions), BLOCK):
        codes = model.encode(pixels(images.rows(positions[start : start + BLOCK]), device)).double()
        total += codes.sum(dim=0)
        products += codes.T @ codes
    mean = total / len(positions)
    return mean.cpu().numpy(), (products / len(positions) - torch.outer(mean, mean)).cpu().numpy()


def solve_whitening(model: Autoencoder, whitening: Whitening, images: Images, device: torch.device) -> None:
    """Fit the model's `whitening`, the identity so far, to the codes of the training split."""
    mean, covariance = code_moments(model, images, "train", device)
    whitening.fit(torch.from_numpy(mean), torch.from_numpy(covariance))
