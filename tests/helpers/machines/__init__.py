"""Machines that are not here: GPUs, launchers, groups of ranks."""
