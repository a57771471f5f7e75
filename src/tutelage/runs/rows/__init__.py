"""What a recipe's rows say beforehand of its training and its scores."""
