# Replace the bucket, see README.md.
bucket = "reentry-staging-222222222222-state"
key    = "reentry.tfstate"
region = "eu-central-1"
