"""The method of the paper: λ, one optimizer step, checkpoints, SeqKD's answers."""

from tutelage.training.job import Job
from tutelage.training.trainer import Trainer

__all__ = ["Job", "Trainer"]
