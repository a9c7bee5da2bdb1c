"""Strategies: which schedules with which numbers for a form of computation on a machine."""
