# The buckets of an environment, and one that holds the access logs of all others.

variable "prefix" {
  description = "Beginning of every bucket's name. It contains the account, because names are unique in the world."
  type        = string
}

variable "account_id" {
  description = "Account of the buckets."
  type        = string
}

variable "key_arn" {
  description = "KMS key that encrypts the objects."
  type        = string
}

variable "privacy_officer_arn" {
  description = "Role that may delete versions before they expire."
  type        = string
}

variable "landing_days" {
  description = "Days after which an object of the landing bucket expires."
  type        = number
}

variable "noncurrent_days" {
  description = "Days that S3 keeps a replaced or deleted version."
  type        = number
}

variable "log_days" {
  description = "Days after which access logs expire."
  type        = number
}

variable "force_destroy" {
  description = "Whether `destroy` also deletes the objects."
  type        = bool
}

locals {
  buckets = {
    landing = { expire = var.landing_days }
    lake    = { expire = null }
    models  = { expire = null }
    mlflow  = { expire = null }
    jobs    = { expire = null }
  }
}

module "bucket" {
  source   = "../bucket"
  for_each = local.buckets

  name             = "${var.prefix}-${each.key}"
  key_arn          = var.key_arn
  log_bucket       = module.logs.name
  expire_days      = each.value.expire
  noncurrent_days  = var.noncurrent_days
  version_deleters = [var.privacy_officer_arn]
  force_destroy    = var.force_destroy
}

module "logs" {
  source = "../bucket"

  name             = "${var.prefix}-logs"
  holds_logs       = true
  expire_days      = var.log_days
  noncurrent_days  = 1
  version_deleters = [var.privacy_officer_arn]
  force_destroy    = var.force_destroy
  statements = [{
    Sid       = "AccessLogs"
    Effect    = "Allow"
    Principal = { Service = "logging.s3.amazonaws.com" }
    Action    = "s3:PutObject"
    Resource  = "arn:aws:s3:::${var.prefix}-logs/*"
    Condition = {
      ArnLike      = { "aws:SourceArn" = "arn:aws:s3:::${var.prefix}-*" }
      StringEquals = { "aws:SourceAccount" = var.account_id }
    }
  }]
}

output "names" {
  description = "Name of each bucket, by purpose."
  value       = { for purpose, bucket in module.bucket : purpose => bucket.name }
}

output "arns" {
  description = "ARN of each bucket, by purpose."
  value       = { for purpose, bucket in module.bucket : purpose => bucket.arn }
}
