"""The embedded Triton server: found, assembled, started, waited for, stopped.

The binary inside nvidia-pytriton is server 2.51, older than the security fixes of 2025 and 2026, so it listens on
loopback alone. Inside a pod a network policy may stand in for loopback; then the server is told another address, and
its control interfaces want a key. Production on GPUs takes a current official container over the same model repository.
"""

from reentry.serving.config import ServerConfig
from reentry.serving.server import EmbeddedServer

__all__ = ["EmbeddedServer", "ServerConfig"]
