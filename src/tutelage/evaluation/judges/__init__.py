"""Scores by other programs: a judge model over HTTP, COMET in an environment of its own."""
