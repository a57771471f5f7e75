"""Distil a large language model into a small one in post-training, and know whether it helped."""

__version__ = "0.1.0"
