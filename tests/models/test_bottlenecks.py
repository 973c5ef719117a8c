"""Bottlenecks against closed forms, numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.cluster.vq import vq

from aecore.models.bottlenecks import BOTTLENECKS, COMMITMENT, ENTRIES, SCALES, SUBSPACE, Whitening, mmd

RNG = np.random.default_rng(0)


def tensor(*shape: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=shape)).float()


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_the_code_is_deterministic_also_while_training(name: str) -> None:
    bottleneck = BOTTLENECKS[name](8)
    features = tensor(16, bottleneck.width)
    bottleneck(features)  # a quantiser begins with its first batch
    assert torch.equal(bottleneck(features).code, bottleneck(features).code)
    evaluating = bottleneck.eval()(features)
    assert torch.equal(evaluating.code, evaluating.latent) or name == "quantised"
    torch.testing.assert_close(evaluating.code, evaluating.latent)


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_while_training_the_code_passes_gradients_to_the_features(name: str) -> None:
    bottleneck = BOTTLENECKS[name](8)
    features = tensor(16, bottleneck.width).requires_grad_()
    bottleneck(features).code.sum().backward()
    assert features.grad is not None
    torch.testing.assert_close(features.grad[:, :8], torch.ones(16, 8))


def test_kl_is_that_of_torchs_distributions() -> None:
    features = tensor(10, 12)
    kl = BOTTLENECKS["variational"](6)(features).terms["kl"]
    mean, log_variance = features.chunk(2, dim=1)
    gaussian = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0)).sum(dim=1).mean()
    assert float(kl) == pytest.approx(float(expected), rel=1e-5)


def test_a_variational_latent_has_the_moments_of_its_gaussian() -> None:
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 1.0]])
    torch.manual_seed(0)
    bottleneck = BOTTLENECKS["variational"](2)
    passed = bottleneck(torch.cat([mean, log_variance], dim=1).expand(200_000, -1))
    torch.testing.assert_close(passed.latent.mean(dim=0), mean[0], atol=0.02, rtol=0)
    torch.testing.assert_close(passed.latent.var(dim=0), log_variance[0].exp(), atol=0.05, rtol=0)


def test_mmd_is_the_double_sum_of_its_definition() -> None:
    x, y = RNG.normal(size=(2, 7, 3))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return sum(2 * 3 * s / (2 * 3 * s + ((a - b) ** 2).sum()) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))

    n = len(x)
    among = [sum(k(v[i], v[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1)) for v in (x, y)]
    between = sum(k(a, b) for a in x for b in y) / n**2
    expected = sum(among) - 2 * between
    assert float(mmd(torch.from_numpy(x), torch.from_numpy(y))) == pytest.approx(expected, rel=1e-9)


def test_mmd_is_near_zero_for_one_distribution_and_large_for_two() -> None:
    torch.manual_seed(0)
    same = float(mmd(torch.randn(500, 4), torch.randn(500, 4)))
    other = float(mmd(torch.randn(500, 4), torch.randn(500, 4) + 2))
    assert abs(same) < 0.02 < 1 < other


def discrepancy(x: np.ndarray, y: np.ndarray) -> float:
    return float(mmd(torch.from_numpy(x), torch.from_numpy(y)))


def test_mmd_of_samples_of_two_sizes_is_the_double_sum() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(5, 3)) + 0.5

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return sum(6 * s / (6 * s + float(((a - b) ** 2).sum())) for s in SCALES)

    xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    xy = np.mean([kernel(a, b) for a in x for b in y])
    assert discrepancy(x, y) == pytest.approx(xx + yy - 2 * xy)


def test_mmd_is_unbiased_and_sees_shift_and_width() -> None:
    rng = np.random.default_rng(7)
    same = [discrepancy(rng.normal(size=(30, 2)), rng.normal(size=(30, 2))) for _ in range(300)]
    assert min(same) < 0 < max(same)
    assert np.mean(same) == pytest.approx(0, abs=3 * np.std(same) / np.sqrt(300))
    prior = rng.normal(size=(500, 2))
    assert discrepancy(rng.normal(size=(500, 2)) + 1, prior) > np.std(same)  # of 30: sixteen times that of 500
    assert discrepancy(rng.normal(size=(500, 2)) * 2, prior) > np.std(same)  # of 30: sixteen times that of 500


def test_quantising_is_scipys_vq_a_part_at_a_time() -> None:
    quantise = BOTTLENECKS["quantised"](3 * SUBSPACE)
    features = tensor(300, 3 * SUBSPACE)
    quantise(features)
    passed = quantise.eval()(features)
    term = 0.0
    for part in range(3):
        z = features[:, part * SUBSPACE : (part + 1) * SUBSPACE].numpy()
        book = quantise.codebooks[part].detach().numpy()  # type: ignore[index,union-attr]
        chosen, distance = vq(z, book)
        np.testing.assert_allclose(
            passed.code[:, part * SUBSPACE : (part + 1) * SUBSPACE].detach().numpy(), book[chosen]
        )
        term += (1 + COMMITMENT) * (distance**2).mean()
    assert float(passed.terms["codebook"].detach()) == pytest.approx(term, rel=1e-4)
    assert int(quantise.indices(features).max()) < ENTRIES  # type: ignore[operator]


def test_gradients_pass_straight_through_the_quantiser() -> None:
    quantise = BOTTLENECKS["quantised"](SUBSPACE)
    features = tensor(20, SUBSPACE).requires_grad_()
    quantise(features.detach())
    weight = tensor(20, SUBSPACE)
    (quantise(features).latent * weight).sum().backward()
    torch.testing.assert_close(features.grad, weight)


def test_a_quantisers_prior_is_its_entries() -> None:
    quantise = BOTTLENECKS["quantised"](2 * SUBSPACE)
    drawn = quantise.prior(40, torch.Generator().manual_seed(0))
    assert drawn is not None
    assert torch.equal(quantise.eval()(drawn).code, drawn)


def test_whitened_codes_are_uncorrelated_with_unit_variance_and_come_back() -> None:
    codes = tensor(500, 4) @ tensor(4, 6) + 3  # of rank 4
    mean, covariance = np.asarray(codes.numpy().mean(axis=0)), np.cov(codes.numpy().T, bias=True)
    whitening = Whitening(6, 1.0)
    torch.testing.assert_close(whitening(codes), codes)
    whitening.fit(torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(covariance))
    white = whitening(codes)
    np.testing.assert_allclose(np.cov(white.numpy().T, bias=True)[:4, :4], np.eye(4), atol=1e-3)
    assert float(white[:, 4:].abs().max()) < 0.1  # what never varied is not blown up
    torch.testing.assert_close(whitening.undo(white), codes, atol=1e-3, rtol=1e-3)

    half = Whitening(6, 0.5)
    half.fit(torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(covariance))
    variances = np.sort(np.linalg.eigvalsh(covariance))[::-1]
    np.testing.assert_allclose(half(codes).numpy().var(axis=0)[:4], np.sqrt(variances[:4]), rtol=1e-3)
