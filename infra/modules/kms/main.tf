# One key with yearly rotation. Its policy names everyone who may use it: a policy of IAM alone opens nothing.

variable "name" {
  description = "Name of the alias, without alias/."
  type        = string
}

variable "description" {
  description = "What the key encrypts."
  type        = string
}

variable "account_id" {
  description = "Account of the key."
  type        = string
}

variable "users" {
  description = "ARNs of the principals that encrypt and decrypt, as far as their own policies also allow it."
  type        = list(string)
  default     = []
}

variable "via" {
  description = "Services through which the users use the key, such as s3.eu-central-1.amazonaws.com. Never empty: nobody calls the key itself."
  type        = list(string)
}

variable "grantors" {
  description = "ARNs of the principals that hand the key to an AWS service when they create a cluster or a registry."
  type        = list(string)
  default     = []
}

variable "log_region" {
  description = "Region whose CloudWatch Logs encrypts its log groups with the key; null: none."
  type        = string
  default     = null
}

locals {
  account = { AWS = "arn:aws:iam::${var.account_id}:root" }
  use     = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*"]

  # Neither Encrypt, Decrypt, GenerateDataKey nor CreateGrant: who administers a key reads nothing with it.
  administration = {
    Sid       = "Administration"
    Effect    = "Allow"
    Principal = local.account
    Action = [
      "kms:CancelKeyDeletion", "kms:CreateAlias", "kms:DeleteAlias", "kms:DescribeKey", "kms:DisableKey",
      "kms:DisableKeyRotation", "kms:EnableKey", "kms:EnableKeyRotation", "kms:GetKeyPolicy",
      "kms:GetKeyRotationStatus", "kms:ListGrants", "kms:ListKeyPolicies", "kms:ListResourceTags",
      "kms:PutKeyPolicy", "kms:RevokeGrant", "kms:ScheduleKeyDeletion", "kms:TagResource", "kms:UntagResource",
      "kms:UpdateAlias", "kms:UpdateKeyDescription",
    ]
    Resource = "*"
  }

  # The account with a condition instead of the roles themselves: a policy that names a role needs the role first.
  users = [for users in [var.users] : {
    Sid       = "Users"
    Effect    = "Allow"
    Principal = local.account
    Action    = local.use
    Resource  = "*"
    Condition = {
      ArnEquals    = { "aws:PrincipalArn" = users }
      StringEquals = { "kms:ViaService" = var.via }
    }
  } if length(users) > 0]

  grantors = [for grantors in [var.grantors] : {
    Sid       = "GrantsForServices"
    Effect    = "Allow"
    Principal = local.account
    Action    = ["kms:CreateGrant"]
    Resource  = "*"
    Condition = {
      ArnEquals    = { "aws:PrincipalArn" = grantors }
      StringEquals = { "kms:ViaService" = var.via }
      Bool         = { "kms:GrantIsForAWSResource" = "true" }
    }
  } if length(grantors) > 0]

  logs = [for region in [var.log_region] : {
    Sid       = "Logs"
    Effect    = "Allow"
    Principal = { Service = "logs.${region}.amazonaws.com" }
    Action    = local.use
    Resource  = "*"
    Condition = {
      ArnLike = { "kms:EncryptionContext:aws:logs:arn" = "arn:aws:logs:${region}:${var.account_id}:log-group:*" }
    }
  } if region != null]
}

resource "aws_kms_key" "this" {
  description             = var.description
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = concat([local.administration], local.users, local.grantors, local.logs)
  })
}

resource "aws_kms_alias" "this" {
  name          = "alias/${var.name}"
  target_key_id = aws_kms_key.this.key_id
}

output "arn" {
  description = "ARN of the key."
  value       = aws_kms_key.this.arn
}
