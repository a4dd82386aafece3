"""Adapters to other libraries, each with an optional dependency of its own.

``mdn.interop.skpro`` (``pip install "mdn[skpro]"``): a probabilistic regressor of skpro.

``mdn.interop.sbi`` (``pip install "mdn[sbi]"``): a density estimator of sbi.
"""

from __future__ import annotations

__all__: list[str] = []
