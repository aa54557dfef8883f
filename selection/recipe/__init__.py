"""Recipes: steps and set operations, parsed, applied in memory or over files, explained."""
