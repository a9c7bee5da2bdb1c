"""Programs that go into artifacts as they are: they need jax and NumPy, not this package."""
