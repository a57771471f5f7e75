"""Measurement: answer a task's prompts with a model, score the answers, keep the evidence."""
