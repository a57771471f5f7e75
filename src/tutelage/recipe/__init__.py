"""What a user may write: recipes and studies as pydantic models, read from YAML and checked. Imports no torch."""

from tutelage.recipe.load import load_recipe
from tutelage.recipe.recipe import RecipeConfig

__all__ = ["RecipeConfig", "load_recipe"]
