"""Predictive quality on the UCI regression benchmark; see ``benchmarks/uci/__main__.py``."""
