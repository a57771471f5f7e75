"""Language models: loaded, checked, cut, given our attention, sharded."""

from tutelage.models.language_model import LanguageModel
from tutelage.models.load import LoadedModel, load_model

__all__ = ["LanguageModel", "LoadedModel", "load_model"]
