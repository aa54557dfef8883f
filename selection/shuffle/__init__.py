"""Rows of many files brought together by cluster or class: spilled by file, read by group, never all in memory."""
