"""Measurement: answer prompts with a model, score the answers, keep the evidence, compare two evaluations."""
