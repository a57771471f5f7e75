"""Language models: loading, checking, cutting layers, packed attention, sharding."""

from tutelage.models.language_model import LanguageModel
from tutelage.models.load import LoadedModel, load_model

__all__ = ["LanguageModel", "LoadedModel", "load_model"]
