"""Code that the Triton Python models import. It requires only numpy."""
