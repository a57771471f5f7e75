"""The demo: a small task of the project's own, and its recipe."""
