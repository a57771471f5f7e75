"""Before a recipe is paid for: will distilling help, by how much, at what price?"""

from tutelage.forecasting.forecast import make_forecast

__all__ = ["make_forecast"]
