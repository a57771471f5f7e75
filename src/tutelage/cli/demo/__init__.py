"""The demo: a small task whose data the project makes itself, and its recipe."""
