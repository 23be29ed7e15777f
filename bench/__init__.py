"""Speed and memory of tracing, against the plain transformers model. Run with ``make bench``."""
