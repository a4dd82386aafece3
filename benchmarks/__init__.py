"""Speed and quality against named rivals; each file runs as ``python -m benchmarks.<name>``."""
