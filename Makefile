# What torch's Linux build on PyPI wants for CUDA; the lock leaves it out, `make setup GPU=1` lets pip bring it.
CUDA_PACKAGES := triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

lock:
	.venv/bin/uv pip compile pyproject.toml --quiet --extra dev --universal --python-version 3.11 --generate-hashes \
		--override lock-overrides.txt --no-annotate --no-header --output-file requirements.lock \
		$(addprefix --no-emit-package ,$(CUDA_PACKAGES))
