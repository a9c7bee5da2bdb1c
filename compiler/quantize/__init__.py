"""Post-training quantization of ONNX models: one file per method, `api.py` runs them in order."""
