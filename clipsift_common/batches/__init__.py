"""Batches on their way to the device that computes with them."""
