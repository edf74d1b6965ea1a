"""TensorRT engines, built by trtexec or by the tensorrt package."""
