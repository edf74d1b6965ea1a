# One private bucket: versions, encryption, TLS only, expiry of old versions.

variable "name" {
  description = "Name of the bucket, unique in the world."
  type        = string
}

variable "holds_logs" {
  description = "Whether this is the bucket of the access logs: it has no log of its own, and no KMS key, because S3 could not deliver to it."
  type        = bool
  default     = false
}

variable "key_arn" {
  description = "KMS key that encrypts the objects, unless the bucket holds logs."
  type        = string
  default     = null
}

variable "log_bucket" {
  description = "Bucket of the access log, unless the bucket holds logs."
  type        = string
  default     = null
}

variable "expire_days" {
  description = "Days after which an object expires; null: never."
  type        = number
  default     = null
}

variable "noncurrent_days" {
  description = "Days that S3 keeps a replaced or deleted version."
  type        = number
}

variable "version_deleters" {
  description = "ARNs of the only principals that may delete a version before it expires."
  type        = list(string)
}

variable "statements" {
  description = "Further statements of the bucket's policy."
  type        = any
  default     = []
}

variable "force_destroy" {
  description = "Whether `destroy` also deletes the objects."
  type        = bool
  default     = false
}

locals {
  arn = "arn:aws:s3:::${var.name}"
  all = [local.arn, "${local.arn}/*"]

  other_encryption = [for logs in [var.holds_logs] : {
    Sid       = "DenyOtherEncryption"
    Effect    = "Deny"
    Principal = { AWS = "*" }
    Action    = "s3:PutObject"
    Resource  = "${local.arn}/*"
    Condition = {
      Null            = { "s3:x-amz-server-side-encryption" = "false" }
      StringNotEquals = { "s3:x-amz-server-side-encryption" = "aws:kms" }
    }
  } if !logs]
}

resource "aws_s3_bucket" "this" {
  #checkov:skip=CKV_AWS_18:every bucket has a log but that of the logs, which would log itself without end
  #checkov:skip=CKV_AWS_145:S3 delivers its access log only to a bucket that is encrypted with the keys of S3; all others have a KMS key
  #checkov:skip=CKV_AWS_144:a copy in another region would be a second place to erase personal data from; versions guard against mistakes
  #checkov:skip=CKV2_AWS_62:nothing listens to events: the pipeline lists the landing bucket by the hour
  bucket        = var.name
  force_destroy = var.force_destroy
}

resource "aws_s3_bucket_ownership_controls" "this" {
  bucket = aws_s3_bucket.this.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  bucket                  = aws_s3_bucket.this.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "this" {
  bucket = aws_s3_bucket.this.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  bucket = aws_s3_bucket.this.id
  rule {
    bucket_key_enabled = !var.holds_logs
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.holds_logs ? "AES256" : "aws:kms"
      kms_master_key_id = var.key_arn
    }
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  bucket = aws_s3_bucket.this.id

  rule {
    id     = "noncurrent"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  # S3 removes markers without versions by itself where objects expire; elsewhere it has to be told.
  rule {
    id     = "current"
    status = "Enabled"
    filter {}
    expiration {
      days                         = var.expire_days
      expired_object_delete_marker = var.expire_days == null ? true : null
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}

resource "aws_s3_bucket_logging" "this" {
  count         = var.holds_logs ? 0 : 1
  bucket        = aws_s3_bucket.this.id
  target_bucket = var.log_bucket
  target_prefix = "${var.name}/"
}

resource "aws_s3_bucket_policy" "this" {
  bucket = aws_s3_bucket.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat([
      {
        Sid       = "DenyPlainHttp"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "s3:*"
        Resource  = local.all
        Condition = { Bool = { "aws:SecureTransport" = "false" } }
      },
      {
        Sid       = "DenyOldTls"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "s3:*"
        Resource  = local.all
        Condition = { NumericLessThan = { "s3:TlsVersion" = "1.2" } }
      },
      {
        Sid       = "DenyDeletingVersions"
        Effect    = "Deny"
        Principal = { AWS = "*" }
        Action    = "s3:DeleteObjectVersion"
        Resource  = "${local.arn}/*"
        Condition = { ArnNotEquals = { "aws:PrincipalArn" = var.version_deleters } }
      },
    ], local.other_encryption, var.statements)
  })
  depends_on = [aws_s3_bucket_public_access_block.this]
}

output "name" {
  description = "Name of the bucket, once its policy is in place: S3 delivers no log to a bucket that does not allow it yet."
  value       = aws_s3_bucket.this.id
  depends_on  = [aws_s3_bucket_policy.this]
}

output "arn" {
  description = "ARN of the bucket."
  value       = local.arn
}
