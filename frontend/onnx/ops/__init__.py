"""One small function per ONNX operator, grouped by family."""
