"""XLA: StableHLO artifacts, compiled and run by jaxlib (the `tpu` extra)."""
