"""Tied, orthogonal, unit norm: they hold whatever the optimiser does."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from aecore.models.autoencoder import Autoencoder
from aecore.models.constraints import Dense, Orthonormal, Tied, UnitNorm, constraint_errors, parametrised
from aecore.models.recipe import Recipe
from aecore.training.engine import Engine
from aecore.training.feed import Batch


def pull(model: Autoencoder, precision: str = "fp32", steps: int = 20) -> Engine:
    """Train hard on noise: a high rate, strong decay, no clipping to speak of."""
    engine = Engine(model, torch.device("cpu"), precision, 0.05, 0.5, 1e9, 0, steps)  # type: ignore[arg-type]
    model.train()
    for _ in range(steps):
        engine.step(Batch(torch.randint(256, (16, *model.shape), dtype=torch.uint8), 1.0))
    return engine


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("widths", [(), (20, 12)])
@pytest.mark.parametrize("weights", [("orthogonal",), ("unit_norm",), ("orthogonal", "unit_norm", "tied")])
def test_they_hold_to_1e_5_after_training(weights: tuple, widths: tuple, precision: str) -> None:
    torch.manual_seed(0)
    model = Autoencoder(Recipe("mlp" if widths else "linear", widths, weights), (1, 5, 6), 4)
    before = model.encoder[0].weight.detach().clone()  # type: ignore[index,union-attr]
    pull(model, precision)
    assert float((model.encoder[0].weight - before).abs().max().detach()) > 1e-2  # type: ignore[index,union-attr,operator]
    errors = constraint_errors(model.encoder)
    assert errors["unit_norm"] < 1e-5 or weights == ("orthogonal",)
    assert errors["orthogonality"] < 1e-5 or "orthogonal" not in weights
    for layer in [*model.encoder, *model.decoder]:  # type: ignore[misc]
        if isinstance(layer, Dense | Tied):
            w = layer.weight.detach().double().numpy()
            if "orthogonal" in weights:
                gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
                np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-5)
            if weights == ("unit_norm",):
                rows = 1 if layer in list(model.encoder) else 0  # type: ignore[call-overload]
                np.testing.assert_allclose(np.linalg.norm(w, axis=rows), 1, atol=1e-5)


def test_tied_weights_are_one_parameter_with_both_gradients() -> None:
    torch.manual_seed(0)
    recipe, shape = Recipe("mlp", (7,), ("tied",)), (1, 4, 5)
    model = Autoencoder(recipe, shape, 3)
    dense = [(20, 7), (7, 3)]
    assert sum(p.numel() for p in model.parameters()) == sum(a * b + a + b for a, b in dense)
    assert [key for key in model.state_dict() if "decoder" in key and "weight" in key] == []
    x = torch.rand(6, *shape)
    model(x).reconstruction.square().sum().backward()
    tied = model.encoder[0].weight.grad.clone()  # type: ignore[index,union-attr]

    free = Autoencoder(Recipe("mlp", (7,)), shape, 3)
    for mine, theirs in zip(free.encoder, model.encoder, strict=True):  # type: ignore[arg-type]
        mine.load_state_dict(theirs.state_dict())
    for mine, theirs in zip(free.decoder, model.decoder, strict=True):  # type: ignore[arg-type]
        if isinstance(theirs, Tied):
            mine.weight.data.copy_(theirs.weight)
            mine.bias.data.copy_(theirs.bias)
    free(x).reconstruction.square().sum().backward()
    apart = free.encoder[0].weight.grad + free.decoder[2].weight.grad.T  # type: ignore[index,union-attr]
    torch.testing.assert_close(tied, apart)


def test_a_copy_is_tied_to_itself() -> None:
    model = Autoencoder(Recipe("linear", weights=("tied",)), (1, 3, 3), 2)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.encoder[0].weight.add_(1)  # type: ignore[index,union-attr,operator]
    torch.testing.assert_close(copied.decoder[0].weight, copied.encoder[0].weight.T)  # type: ignore[index,union-attr]
    assert not torch.equal(model.decoder[0].weight, copied.decoder[0].weight)  # type: ignore[index,union-attr]


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4)])
def test_orthonormal_is_gram_schmidt(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    tall = x.numpy() if shape[0] >= shape[1] else x.numpy().T
    basis: list[np.ndarray] = []
    for column in tall.T:
        left = column - sum(b * (b @ column) for b in basis)
        basis.append(left / np.linalg.norm(left))
    expected = np.stack(basis, axis=1)
    np.testing.assert_allclose(Orthonormal()(x).numpy(), expected if shape[0] >= shape[1] else expected.T, atol=1e-12)
    x.requires_grad_()
    assert torch.autograd.gradcheck(Orthonormal(), (x,))


def test_unit_norm_divides_by_the_norm() -> None:
    x = torch.randn(4, 3)
    np.testing.assert_allclose(
        UnitNorm(1)(x).numpy(), x.numpy() / np.linalg.norm(x.numpy(), axis=1, keepdims=True), rtol=1e-6
    )


def test_constrained_parameters_are_not_decayed() -> None:
    model = Autoencoder(Recipe("linear", weights=("orthogonal",)), (1, 3, 3), 2)
    assert len(parametrised(model)) == 2
    engine = Engine(model, torch.device("cpu"), "fp32", 1e-3, 0.1, 1.0, 0, 5)
    decay = {id(p): group["weight_decay"] for group in engine.optimiser.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    assert {decay[id(p)] for p in parametrised(model)} == {0.0}


def test_the_errors_of_known_weights() -> None:
    layer = Dense(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 2, 0]]))
    assert constraint_errors(torch.nn.Sequential(layer)) == pytest.approx({"orthogonality": 3.0, "unit_norm": 1.0})
    assert constraint_errors(torch.nn.Sequential(torch.nn.ReLU())) == {}
