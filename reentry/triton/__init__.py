"""What Triton's Python models import; all of it needs numpy alone."""
