"""Store of the uploads and results of jobs: a folder, or an S3-compatible store."""
