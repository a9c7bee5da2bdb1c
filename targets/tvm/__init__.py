"""TVM: the optimized graph as a Relax module, for every device that a build of TVM supports (the `tvm` extra)."""
