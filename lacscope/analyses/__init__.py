"""Analyses of recorded traces: Dataset in, labelled arrays out. No torch, no model."""
