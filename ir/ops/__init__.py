"""The core operators, one class each, grouped by family."""
