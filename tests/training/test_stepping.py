from __future__ import annotations

import pytest
import torch

from aecore.models.autoencoder import Autoencoder
from aecore.models.recipe import Recipe
from aecore.training import stepping
from aecore.training.engine import Engine
from aecore.training.feed import Batch
from aecore.training.stepping import COMPILE_PAYS, Captured, choose_stepping, compiled

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NOISY = Recipe("conv", (4, 8), down="strided", up="nearest", corruption="gaussian", bottleneck="variational")


@pytest.mark.parametrize(
    ("asked", "device", "values", "ranks", "taken"),
    [
        ("auto", CPU, 1e15, 1, "eager"),
        ("auto", CUDA, COMPILE_PAYS - 1, 1, "captured"),
        ("auto", CUDA, COMPILE_PAYS, 1, "compiled"),
        ("auto", CUDA, COMPILE_PAYS, 2, "eager"),
        ("captured", CPU, 1, 1, "eager"),
        ("compiled", CPU, 1, 1, "compiled"),
        ("eager", CUDA, 1e15, 1, "eager"),
    ],
)
def test_auto_takes_what_pays(asked, device, values, ranks, taken) -> None:
    assert choose_stepping(asked, device, values, ranks) == taken


def losses(how: str, device: torch.device, steps: int = 12) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of some steps, the last of each five on a smaller batch, and the weights after them."""
    torch.manual_seed(0)
    model = Autoencoder(NOISY, (1, 12, 12), 4)
    engine = Engine(model, device, "fp32", 1e-2, 1e-2, 1.0, 2, steps, stepping=how)  # type: ignore[arg-type]
    model.train()
    draw = torch.Generator().manual_seed(1)
    seen = []
    for step in range(steps):
        images = torch.randint(256, (7 if step % 5 == 4 else 16, 1, 12, 12), dtype=torch.uint8, generator=draw)
        torch.manual_seed(step)
        seen.append(float(engine.step(Batch(images.to(device), 1.0))["loss"]))
    return seen, {key: value.cpu() for key, value in model.state_dict().items()}


def same(how: str, device: torch.device, tolerance: float) -> None:
    expected, before = losses("eager", device)
    found, after = losses(how, device)
    assert found == pytest.approx(expected, rel=tolerance)
    for key, value in before.items():
        torch.testing.assert_close(after[key], value, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_compiled_it_is_the_same_step(capsys: pytest.CaptureFixture[str]) -> None:
    same("compiled", CPU, 1e-4)
    assert "eagerly" not in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("how", ["captured", "compiled"])
def test_captured_it_is_the_same_step(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    same(how, CUDA, 1e-3)
    assert "eagerly" not in capsys.readouterr().err


def test_what_cannot_be_compiled_is_said_once_and_taken_eagerly(monkeypatch, capsys) -> None:
    def broken(function, **options):
        def call(*arguments):
            raise RuntimeError("no C++ compiler\nlong story")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    double = compiled(lambda x: 2 * x)
    assert [double(3), double(4)] == [6, 8]
    assert capsys.readouterr().err.splitlines() == [
        "the step cannot be compiled here, so it is taken eagerly: no C++ compiler"
    ]
    same("compiled", CPU, 0)


def test_a_backward_pass_that_cannot_be_compiled_is_taken_eagerly_too(monkeypatch, capsys) -> None:
    from torch._dynamo.backends.common import aot_autograd

    def refuse(graph, inputs):
        raise RuntimeError("no code for this backward")

    backend = aot_autograd(fw_compiler=lambda graph, inputs: graph, bw_compiler=refuse)
    ours = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, dynamic, options: ours(function, backend=backend))
    x = torch.arange(3.0, requires_grad=True)
    compiled(lambda x: (x**2).sum())(x).backward()
    assert torch.equal(x.grad, 2 * torch.arange(3.0))
    assert "cannot be compiled here" in capsys.readouterr().err


def test_what_cannot_be_captured_is_said_once_and_taken_eagerly(monkeypatch, capsys) -> None:
    def refuse(self: Captured, keys: torch.Tensor, share: float) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Captured, "_capture", refuse)
    monkeypatch.setattr(Captured, "WARM_UP", 0)
    step = stepping.Captured(lambda keys, share: {"loss": keys * share})
    assert [float(step(torch.tensor(2.0), 0.5)["loss"]) for _ in range(2)] == [1, 1]
    assert capsys.readouterr().err.count("the step cannot be captured here") == 1
