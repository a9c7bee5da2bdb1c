"""Operator rows that run on the interpreter and on every target."""
