"""What changes a model: layers that are cut, adapters, weights in fewer bits."""
