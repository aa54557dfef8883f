"""Weights that others have trained: fetched from a hub, read from any checkpoint."""
