"""Adapters that make this library at home in others, each with an extra of its own.

``mdn.interop.skpro`` (``pip install "mdn[skpro]"``): a probabilistic regressor of skpro.

``mdn.interop.sbi`` (``pip install "mdn[sbi]"``): a density estimator of sbi.
"""

from __future__ import annotations

__all__: list[str] = []
