# Roles: one of each workload in the cluster, one of the delivery, one of the privacy officer.

# A workload is a service account of one namespace: no other token is trusted.
resource "aws_iam_role" "workload" {
  for_each = var.workloads
  name     = "${var.name}-${each.key}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = var.cluster_issuer_arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = {
        StringEquals = {
          "${var.cluster_issuer}:aud" = "sts.amazonaws.com"
          "${var.cluster_issuer}:sub" = "system:serviceaccount:${var.namespace}:${each.value.service_account}"
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "workload" {
  for_each = var.workloads
  name     = "access"
  role     = aws_iam_role.workload[each.key].id
  policy   = jsonencode({ Version = "2012-10-17", Statement = local.statements[each.key] })
}

locals {
  # Objects of a versioned bucket: s3:DeleteObject hides one behind a marker, and only s3:DeleteObjectVersion destroys it.
  actions = {
    read  = ["s3:GetObject"]
    write = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
  }
  key_actions = {
    read  = ["kms:Decrypt"]
    write = ["kms:Decrypt", "kms:GenerateDataKey"]
  }

  statements = { for name, workload in var.workloads : name => concat(
    [for mode in ["read", "write"] : {
      Sid      = "Objects${title(mode)}"
      Effect   = "Allow"
      Action   = local.actions[mode]
      Resource = [for grant in workload.objects : "${var.bucket_arns[grant.bucket]}/${grant.prefix}*" if grant.mode == mode]
    } if anytrue([for grant in workload.objects : grant.mode == mode])],
    [for bucket in distinct([for grant in workload.objects : grant.bucket]) : {
      Sid       = "List${title(bucket)}"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = [var.bucket_arns[bucket]]
      Condition = { StringLike = { "s3:prefix" = [for grant in workload.objects : "${grant.prefix}*" if grant.bucket == bucket] } }
    }],
    [for modes in [[for grant in workload.objects : grant.mode]] : {
      Sid      = "DataKey"
      Effect   = "Allow"
      Action   = local.key_actions[contains(modes, "write") ? "write" : "read"]
      Resource = [var.data_key_arn]
    } if length(modes) > 0],
    [for secrets in [workload.secrets] : {
      Sid      = "Secrets"
      Effect   = "Allow"
      Action   = ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"]
      Resource = [for secret in secrets : var.secrets[secret].arn]
    } if length(secrets) > 0],
    [for secrets in [workload.secrets] : {
      Sid      = "SecretKeys"
      Effect   = "Allow"
      Action   = ["kms:Decrypt"]
      Resource = distinct([for secret in secrets : var.secrets[secret].key_arn])
    } if length(secrets) > 0],
  ) }
}
