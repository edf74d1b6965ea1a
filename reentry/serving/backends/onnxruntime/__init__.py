"""The onnxruntime backend of the embedded server."""
