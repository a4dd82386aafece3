"""The whole conditional distribution p(y|x), fitted, scored and shown."""

from .distribution import HDR, GaussianMixture, Modes

__all__ = ["HDR", "GaussianMixture", "Modes", "__version__"]
__version__ = "0.1.0"
