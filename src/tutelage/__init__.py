"""Distil a large language model into a small one in post-training, and know beforehand whether it helps."""

__version__ = "0.1.0"
