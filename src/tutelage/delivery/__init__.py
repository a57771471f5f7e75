"""What one does with a trained model: it gets a readable name and a card, answers in the terminal, and is exported."""

from tutelage.delivery.folders import deliver_models

__all__ = ["deliver_models"]
