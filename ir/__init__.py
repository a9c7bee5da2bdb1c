"""The intermediate representations: graph, scalar expressions, loop-level kernels.  Imports nothing of ours."""
