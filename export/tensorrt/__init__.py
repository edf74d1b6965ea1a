"""TensorRT engines: built where they run, by trtexec or by the tensorrt package."""
