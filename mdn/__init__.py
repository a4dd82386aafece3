"""The whole conditional distribution p(y|x), fitted, scored and shown."""

__version__ = "0.1.0"
