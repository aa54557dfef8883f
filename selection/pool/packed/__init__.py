"""Shards that are no plain tars, and how each becomes one."""
