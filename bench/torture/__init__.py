"""What a machine that breaks does to runs, done to them on purpose: see `__main__.py`."""
