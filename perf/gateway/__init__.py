"""What the gateway costs, compared with Triton itself."""
