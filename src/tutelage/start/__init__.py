"""The first hour: a recipe proposed for data, models and machine (`init`), and what of it all works (`doctor`)."""
