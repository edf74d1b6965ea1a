"""The embedded Triton server: found, assembled, started, waited for, stopped."""
