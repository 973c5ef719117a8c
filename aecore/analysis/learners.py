"""Classic learners on codes: linear SVM, random forest, logistic regression. kNN is in `protocol`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

TAUGHT = 10_000
"""Training images that a learner is shown at most."""
NUMBERS = 2**23
"""Their pixels at most, but never fewer than LEAST images: raw pixels cost the most time, and every space is shown the
same images."""
LEAST = 1_000
COST = 2.0
"""The SVM's C, for inputs of mean squared length one; chosen once, on validation images."""
TREES = 100
COSTS = (0.3, 1, 3, 10, 30, 100, 300)
"""C times D of the logistic regressions that validation images choose among."""


def most(pixels: int) -> int:
    """How many training images a learner is shown where an image has `pixels` values."""
    return min(TAUGHT, max(LEAST, NUMBERS // pixels))


def linear_svm(seed: int) -> Any:
    """Linear support vector machine, one against the rest, squared hinge (Fan et al. 2008, "LIBLINEAR").

    Inputs are standardised by the training images' mean and deviation and divided by sqrt(D): their squared length is
    one in the mean, so that one C means the same in spaces of any dimension.
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler
    from sklearn.svm import LinearSVC

    shorten = FunctionTransformer(lambda x: x / np.sqrt(x.shape[1]))
    return make_pipeline(StandardScaler(), shorten, LinearSVC(C=COST, dual=True, tol=1e-2, random_state=seed))


def random_forest(seed: int) -> Any:
    """Random forest of TREES trees, sqrt(D) features a split (Breiman 2001), on one thread."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(TREES, random_state=seed, n_jobs=1)


MANY = "The number of unique classes is greater than"
"""What scikit-learn warns of where most labels have an image or two: they are labels all the same."""
LEARNERS: dict[str, Callable[[int], Any]] = {"svm": linear_svm, "forest": random_forest}


def predict(taught: np.ndarray, labels: np.ndarray, asked: Iterable[np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """What each learner, taught by float vectors (n, D) with `labels` int (n,), says of `asked`: int (q,).

    `asked` is read once, in blocks (m, D). The same arguments give the same answers. Where all are labelled alike, that
    label is the answer.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.exceptions import ConvergenceWarning

    alike = (labels == labels[0]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the SVM's cap of 1,000 passes bounds the time
        warnings.filterwarnings("ignore", MANY)
        fitted = [(DummyClassifier() if alike else make(seed)).fit(taught, labels) for make in LEARNERS.values()]
    said = [[learner.predict(block) for learner in fitted] for block in asked]
    return {name: np.concatenate(answers) for name, answers in zip(LEARNERS, zip(*said, strict=True), strict=True)}


class Linear(NamedTuple):
    """A linear classifier: scores of z are ((z - mean) / scale) @ weight.T + bias, and the largest is the answer."""

    mean: np.ndarray
    """(D,) float32."""
    scale: float
    """One for all dimensions: the root of their mean variance, which leaves the space's shape as it is."""
    weight: np.ndarray
    """(K, D) float32."""
    bias: np.ndarray
    """(K,) float32."""
    cost: float
    """The chosen C."""

    def predict(self, z: np.ndarray) -> np.ndarray:
        """(n, D) -> int (n,) in 0 … K - 1."""
        return np.asarray((((z - self.mean) / self.scale) @ self.weight.T + self.bias).argmax(axis=1))


def logistic(taught: np.ndarray, labels: np.ndarray, judge: Callable[[Linear], float]) -> Linear:
    """Logistic regression of `labels` int (n,), each of 0 … K - 1 there, on float32 (n, D), K at least 2.

    `judge` scores a candidate, more is better; of COSTS / D the best is taken, the smallest of equals.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean = taught.mean(axis=0)
    scale = max(float(np.sqrt(np.square(taught - mean).mean())), 1e-12)
    ready = (taught - mean) / np.float32(scale)
    model = LogisticRegression(max_iter=200, tol=1e-3, warm_start=True)
    best, score = None, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what has not converged is judged as it is
        warnings.filterwarnings("ignore", MANY)
        for cost in COSTS:
            model.set_params(C=cost / taught.shape[1]).fit(ready, labels)
            weight, bias = model.coef_.astype(np.float32), model.intercept_.astype(np.float32)
            if len(weight) == 1:  # two labels: one score t, and softmax(-t/2, t/2) is its sigmoid
                weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
            candidate = Linear(mean, scale, weight, bias, cost / taught.shape[1])
            if (found := judge(candidate)) > score:
                best, score = candidate, found
    assert best is not None
    return best
