"""The method of the paper: λ, the training step, checkpoints, and the teacher's answers for SeqKD."""

from tutelage.training.job import Job
from tutelage.training.trainer import Trainer

__all__ = ["Job", "Trainer"]
