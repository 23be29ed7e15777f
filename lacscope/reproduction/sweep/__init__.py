"""Sweeps: a frozen specification, shards written atomically, and a runner that skips what is done."""
