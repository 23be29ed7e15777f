"""Benchmarks: one a file, prompts and answers, no model."""
