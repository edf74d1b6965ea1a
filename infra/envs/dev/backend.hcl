# Replace the bucket, see README.md.
bucket = "reentry-dev-111111111111-state"
key    = "reentry.tfstate"
region = "eu-central-1"
