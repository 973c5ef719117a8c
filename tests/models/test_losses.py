"""Losses and penalties against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aecore.models.autoencoder import Autoencoder, Output
from aecore.models.gradients import orientation_histograms
from aecore.models.losses import LOSSES
from aecore.models.penalties import PENALTIES, Adversarial, Gradients
from aecore.models.recipe import Recipe

RNG = np.random.default_rng(0)


def output_of(p: np.ndarray, latent: np.ndarray | None = None) -> Output:
    tensor = torch.from_numpy(p)
    z = torch.zeros(len(p), 2) if latent is None else torch.from_numpy(latent)
    return Output(tensor, z, z, torch.from_numpy(np.log(p / (1 - p))), {})


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_definition(name: str) -> None:
    from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error

    p, t = RNG.uniform(0.01, 0.99, (2, 3, 2, 4, 4))
    hidden = RNG.random((3, 1, 4, 4)) < 0.4
    inside = np.broadcast_to(hidden, p.shape)
    soft = np.concatenate([t.ravel(), 1 - t.ravel()])
    expected = {
        "mse": mean_squared_error(t.ravel(), p.ravel()),
        "l1": mean_absolute_error(t.ravel(), p.ravel()),
        "bce": 2 * log_loss(np.repeat([1, 0], p.size), np.tile(p.ravel(), 2), sample_weight=soft, normalize=False)
        / (2 * p.size),
        "masked": mean_squared_error(t[inside], p[inside]),
    }[name]  # fmt: skip
    loss = LOSSES[name](output_of(p), torch.from_numpy(t), torch.from_numpy(hidden))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_has_a_gradient_where_it_is_most_wrong() -> None:
    raw = torch.full((1, 1, 2, 2), -60.0, requires_grad=True)
    reconstruction = raw.sigmoid()
    output = Output(reconstruction, torch.zeros(1, 2), torch.zeros(1, 2), raw, {})
    LOSSES["bce"](output, torch.ones(1, 1, 2, 2), None).backward()
    torch.testing.assert_close(raw.grad, torch.full((1, 1, 2, 2), -0.25))


def test_nothing_hidden_costs_nothing() -> None:
    p, t = RNG.uniform(0.01, 0.99, (2, 3, 1, 4, 4))
    assert float(LOSSES["masked"](output_of(p), torch.from_numpy(t), torch.zeros(3, 1, 4, 4, dtype=torch.bool))) == 0


def test_penalties_on_the_code_equal_their_definition() -> None:
    z = RNG.normal(size=(30, 5)) @ RNG.normal(size=(5, 5))
    output = output_of(RNG.uniform(0.1, 0.9, (30, 1, 2, 2)), z)
    model, target = Autoencoder(Recipe("linear"), (1, 2, 2), 2), torch.zeros(30, 1, 2, 2)
    crossed = np.corrcoef(z.T)[~np.eye(5, dtype=bool)]
    expected = {
        "l1": (np.abs(z).mean(axis=0) / np.sqrt(np.square(z).mean(axis=0))).mean(),
        "l2": np.square(z).mean(),
        "decorrelation": np.square(crossed).mean(),
    }
    for name, value in expected.items():
        assert float(PENALTIES[name](model)(model, output, target)) == pytest.approx(value, rel=1e-5), name


def test_the_sparse_penalty_does_not_gain_by_shrinking_the_code() -> None:
    z, model, target = RNG.normal(size=(30, 5)), Autoencoder(Recipe("linear"), (1, 2, 2), 2), torch.zeros(30, 1, 2, 2)
    images = RNG.uniform(0.1, 0.9, (30, 1, 2, 2))
    small, large, rare = (
        float(PENALTIES["l1"](model)(model, output_of(images, code), target)) for code in (z / 100, z, z**5)
    )
    assert small == pytest.approx(large, rel=1e-5)
    assert rare < 0.7 * large


def test_penalties_on_a_linear_decoder_have_closed_forms() -> None:
    torch.manual_seed(0)
    model = Autoencoder(Recipe("linear"), (1, 4, 5), 3)
    model.normalise_by(torch.tensor([0.3]), torch.tensor([0.25]))
    weight = model.decoder[0].weight.detach().double().numpy()  # type: ignore[index,union-attr,operator]
    x = torch.rand(4000, 1, 4, 5)
    output = model(x)
    l2 = PENALTIES["decoder_l2"](model)(model, output, x)
    assert float(l2.detach()) == pytest.approx(np.square(weight).sum(), rel=1e-5)
    jacobian = PENALTIES["decoder_gradient"](model)(model, output, x)
    assert float(jacobian.detach()) == pytest.approx(
        np.square(0.25 * weight).sum() / 20, rel=0.03
    )  # an estimate: 4,000 draws


def test_the_adversarial_term_trains_the_judge_down_and_the_model_up() -> None:
    torch.manual_seed(0)
    shape = (1, 8, 8)
    model, x = Autoencoder(Recipe("linear"), shape, 4), torch.rand(16, *shape)
    judge = Adversarial(model)
    output = model(x)
    judge(model, output, x).backward()
    with torch.no_grad():
        shown = torch.cat([x, output.reconstruction])
    shown.requires_grad_()
    real = torch.cat([torch.ones(16), torch.zeros(16)])
    plain = torch.nn.functional.binary_cross_entropy_with_logits(Adversarial.score(judge, shown), real)
    (at_images,) = torch.autograd.grad(plain, shown)
    chain = torch.autograd.grad(model(x).reconstruction, list(model.parameters()), -at_images[16:])
    for p, expected in zip(model.parameters(), chain, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-7)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.parameters())


def test_gradients_are_told_from_the_code_and_train_it() -> None:
    torch.manual_seed(0)
    model, x = Autoencoder(Recipe("linear"), (3, 8, 12), 4), torch.rand(5, 3, 8, 12)
    tell = PENALTIES["gradients"](model)
    assert isinstance(tell, Gradients)
    output = model(x)
    loss = tell(model, output, x)
    told = tell.tell(output.latent).detach().numpy()
    truth = orientation_histograms(x).numpy().reshape(5, -1)
    assert float(loss.detach()) == pytest.approx(np.square(told - truth).mean(), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in [*model.encoder.parameters(), *tell.parameters()])
