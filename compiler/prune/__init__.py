"""Pruning of ONNX models in one shot: `api.prune` and, with several trials beside the original, `trials.try_all`."""
