"""TruncatedMixture and DiscretizedMixture against SciPy, mpmath, quadrature and plain sums."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from mdn.distribution import GaussianMixture
from mdn.distribution._bounded import DiscretizedMixture, TruncatedMixture
from tests import oracles
from tests.cases import MIXTURES
from tests.oracles import mp

F32, F64 = torch.float32, torch.float64
INF = math.inf

# Around the "overlapping" mixture: components at -0.5, 0.2, 1 with scales 1, 0.4, 1.7.
WINDOWS = {
    "middle": (-1.0, 2.0),
    "lower bound": (0.0, INF),
    "upper bound": (-INF, 0.5),
    "no bound": (-INF, INF),
    "nearly all": (-15.0, 18.0),
    "narrow": (0.3, 0.3 + 1e-9),
    "tail": (52.0, 54.0),  # 30 scales of the widest component away, 130 of the narrowest
    "open tail": (52.0, INF),
    "lower tail": (-54.0, -52.0),
    "open lower tail": (-INF, -52.0),
    "narrow, in the tail": (52.0, 52.0 + 1e-7),
}
each_window = pytest.mark.parametrize("window", WINDOWS)


def mixture(name: str = "overlapping", dtype: torch.dtype = F64) -> GaussianMixture:
    return GaussianMixture(*(a.to(dtype) for a in MIXTURES[name]))


def normal(loc: float, scale: float, dtype: torch.dtype = F64) -> GaussianMixture:
    at, width = torch.tensor([[loc]], dtype=dtype), torch.tensor([[scale]], dtype=dtype)
    return GaussianMixture(torch.zeros(1, dtype=dtype), at, width)


def batch(n: int, dtype: torch.dtype = F64) -> GaussianMixture:
    """n unlike mixtures of three components."""
    logits, loc, scale = (a.reshape(-1, *a.shape[2:])[:n] for a in MIXTURES["batched"])
    return GaussianMixture(*(a[:, None].expand(-1, *s).clone().to(dtype) * f for a, s, f in (
        (logits, (3,), torch.tensor([1.0, -0.5, 0.3])),
        (loc[..., 0], (3,), torch.tensor([1.0, 0.2, -0.7])),
        (scale[..., 0], (3,), torch.tensor([1.0, 0.5, 2.0])),
    ))) if False else _batch(n, dtype)  # fmt: skip
