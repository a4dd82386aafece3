"""The warnings of mdn: their classes, the line they point at, and that one text comes once."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import mdn
from mdn.warnings import once, warn


def test_all_warnings_can_be_silenced_together() -> None:
    """One category silences mdn and nothing else."""
    for category in (mdn.DataWarning, mdn.TrainingWarning):
        assert issubclass(category, mdn.MDNWarning)
    assert issubclass(mdn.MDNWarning, UserWarning)


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_a_warning_points_at_the_users_line(in_pipeline: bool) -> None:
    """Also through a Pipeline of scikit-learn, whose frames stand between."""
    X = np.arange(10.0)[:, None]
    model = mdn.MDNRegressor(1, (4,), ensemble_size=1, trees=False, max_epochs=1)
    estimator = make_pipeline(StandardScaler(), model) if in_pipeline else model
    with pytest.warns(mdn.DataWarning, match="10 rows are few") as caught:
        estimator.fit(X, X[:, 0] ** 2)
    assert [Path(w.filename).name for w in caught] == ["test_warnings.py"]


def test_folds_do_not_repeat_a_warning() -> None:
    """Three fits inside one call give one warning."""
    X = np.arange(15.0)[:, None]
    model = mdn.MDNRegressor(1, (4,), ensemble_size=1, trees=False, max_epochs=1)
    with pytest.warns(mdn.DataWarning, match="10 rows are few") as caught:
        mdn.calibration.out_of_fold(model, X, X[:, 0] ** 2, cv=3)
    assert len(caught) == 1 and caught[0].filename == __file__


def test_once_gives_each_text_once() -> None:
    """Inner blocks belong to the outer one; afterwards texts are given again."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with once():
            warn("a", mdn.DataWarning)
            with once():
                warn("a", mdn.DataWarning)
                warn("b", mdn.DataWarning)
        warn("a", mdn.DataWarning)
    assert [str(w.message) for w in caught] == ["a", "b", "a"]
