"""TPUs: StableHLO compiled ahead of time by XLA's TPU compiler, which needs libtpu and no TPU."""
