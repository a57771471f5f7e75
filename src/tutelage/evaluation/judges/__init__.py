"""Scores that another program gives: a judge model over HTTP, COMET in its own environment."""
