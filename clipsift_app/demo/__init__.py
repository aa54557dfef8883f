"""The demo: data that it draws itself, and the whole pipeline on it."""
