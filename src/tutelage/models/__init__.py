"""Language models: loading, checking, packed attention, sharding; `surgery` changes them."""

from tutelage.models.language_model import LanguageModel
from tutelage.models.load import LoadedModel, load_model

__all__ = ["LanguageModel", "LoadedModel", "load_model"]
