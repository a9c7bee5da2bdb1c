"""Strategies for graphics processors: which loops blocks and threads run."""
