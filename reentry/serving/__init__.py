"""The embedded Triton server, which runs on a laptop or in a pod without a GPU.

The binary in nvidia-pytriton is server 2.51, older than the security fixes of 2025 and 2026, so it listens on loopback
by default. It may listen on another address behind a firewall or the network policy of a pod. For production on GPUs,
use a current official container with the same model repository.
"""

from reentry.serving.config import ServerConfig
from reentry.serving.server import EmbeddedServer

__all__ = ["EmbeddedServer", "ServerConfig"]
