terraform {
  # Write-only arguments and ephemeral variables; OpenTofu has both since 1.11 too.
  required_version = ">= 1.11"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }

  # The rest is in envs/NAME/backend.hcl. The lock is an object beside the state, so that no table is needed.
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }
}

provider "aws" {
  region = var.region
  # Credentials of another environment's account are refused before anything is read.
  allowed_account_ids = [var.account_id]

  default_tags {
    tags = {
      project     = "reentry"
      environment = var.environment
    }
  }
}
