# Replace the bucket, see README.md.
bucket = "reentry-production-333333333333-state"
key    = "reentry.tfstate"
region = "eu-central-1"
