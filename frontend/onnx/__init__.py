"""ONNX models in, graphs out."""
