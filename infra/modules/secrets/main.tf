# Secrets of Secrets Manager. Values are write-only arguments: neither the plan nor the state contains them.

variable "prefix" {
  description = "Beginning of every secret's name."
  type        = string
}

variable "secrets" {
  description = "Key and readers of each secret, by name. `version` is raised to write a new value; null: Terraform writes no value."
  type = map(object({
    description = string
    key_arn     = string
    readers     = list(string)
    version     = optional(number)
  }))
}

variable "values" {
  description = "Value of each secret that has a version, by name."
  type        = map(string)
  ephemeral   = true
  sensitive   = true
}

variable "recovery_days" {
  description = "Days for which a deleted secret can be restored; 0: none."
  type        = number
}

resource "aws_secretsmanager_secret" "this" {
  #checkov:skip=CKV2_AWS_57:no function can rotate them: a new pseudonym key changes every pseudonym, and the gateway's passwords belong to services outside
  for_each                = var.secrets
  name                    = "${var.prefix}/${each.key}"
  description             = each.value.description
  kms_key_id              = each.value.key_arn
  recovery_window_in_days = var.recovery_days
}

resource "aws_secretsmanager_secret_policy" "this" {
  for_each            = var.secrets
  secret_arn          = aws_secretsmanager_secret.this[each.key].arn
  block_public_policy = true
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "DenyOtherReaders"
      Effect    = "Deny"
      Principal = { AWS = "*" }
      Action    = "secretsmanager:GetSecretValue"
      Resource  = "*"
      Condition = { ArnNotEquals = { "aws:PrincipalArn" = each.value.readers } }
    }]
  })
}

resource "aws_secretsmanager_secret_version" "this" {
  for_each                 = { for name, secret in var.secrets : name => secret if secret.version != null }
  secret_id                = aws_secretsmanager_secret.this[each.key].id
  secret_string_wo         = var.values[each.key]
  secret_string_wo_version = each.value.version
}

output "arns" {
  description = "ARN of each secret, by name."
  value       = { for name, secret in aws_secretsmanager_secret.this : name => secret.arn }
}
