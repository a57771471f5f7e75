"""Rows to conversations, conversations to token sequences, token sequences to micro-batches."""

from tutelage.data.batch import make_micro_batches
from tutelage.data.chat_template import ChatTemplate
from tutelage.data.dataset import load_dataset

__all__ = ["ChatTemplate", "load_dataset", "make_micro_batches"]
