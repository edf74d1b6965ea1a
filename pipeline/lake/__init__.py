"""The data lake: versioned Delta tables in a folder or an S3-compatible store."""
