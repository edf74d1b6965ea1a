# Roles: one of each workload in the cluster, of each kind of people and systems outside, and of the delivery.

resource "aws_iam_role" "workload" {
  for_each             = local.workloads
  name                 = "${var.name}-${each.key}"
  max_session_duration = 3600
  assume_role_policy   = jsonencode({ Version = "2012-10-17", Statement = [local.trust[each.key]] })
}

resource "aws_iam_role_policy" "workload" {
  for_each = local.workloads
  name     = "access"
  role     = aws_iam_role.workload[each.key].id
  policy   = jsonencode({ Version = "2012-10-17", Statement = local.statements[each.key] })
}

locals {
  workloads = { for name, workload in var.workloads : name => workload if workload.service_account != null || length(workload.principals) > 0 }

  # A service account of one namespace and no other; or the named principals, if asked for with a second factor.
  trust = { for name, workload in local.workloads : name => merge(
    { Effect = "Allow" },
    workload.service_account != null ? {
      Principal = { Federated = var.cluster_issuer_arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = {
        StringEquals = {
          "${var.cluster_issuer}:aud" = "sts.amazonaws.com"
          "${var.cluster_issuer}:sub" = "system:serviceaccount:${coalesce(workload.namespace, var.namespace)}:${workload.service_account}"
        }
      }
    } : null,
    workload.service_account == null ? { Principal = { AWS = workload.principals }, Action = "sts:AssumeRole" } : null,
    workload.mfa ? { Condition = { Bool = { "aws:MultiFactorAuthPresent" = "true" } } } : null,
  ) }

  # In a versioned bucket, s3:DeleteObject hides an object behind a marker. Only s3:DeleteObjectVersion destroys it.
  write = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
  actions = {
    read  = ["s3:GetObject"]
    put   = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    write = local.write
    erase = concat(local.write, ["s3:GetObjectVersion", "s3:DeleteObjectVersion"])
  }
  list_actions = {
    read  = ["s3:ListBucket"]
    write = ["s3:ListBucket"]
    erase = ["s3:ListBucket", "s3:ListBucketVersions"]
  }

  statements = { for name, workload in local.workloads : name => concat(
    [for mode, actions in local.actions : {
      Sid      = "Objects${title(mode)}"
      Effect   = "Allow"
      Action   = actions
      Resource = [for grant in workload.objects : "${var.bucket_arns[grant.bucket]}/${grant.prefix}*" if grant.mode == mode]
    } if anytrue([for grant in workload.objects : grant.mode == mode])],
    # Of the whole bucket: with a condition on the prefix, S3 would answer 403 instead of 404 where an object is missing,
    # and readers of a table ask for objects that may be missing.
    [for place in distinct([for grant in workload.objects : { bucket = grant.bucket, mode = grant.mode } if grant.mode != "put"]) : {
      Sid      = "List${title(place.bucket)}${title(place.mode)}"
      Effect   = "Allow"
      Action   = local.list_actions[place.mode]
      Resource = [var.bucket_arns[place.bucket]]
    }],
    [for modes in [distinct([for grant in workload.objects : grant.mode])] : {
      Sid      = "DataKey"
      Effect   = "Allow"
      Action   = modes == tolist(["read"]) ? ["kms:Decrypt"] : ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource = [var.data_key_arn]
    } if length(modes) > 0],
    [for secrets in [workload.secrets] : {
      Sid      = "Secrets"
      Effect   = "Allow"
      Action   = concat(["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue"], workload.writes_secrets ? ["secretsmanager:PutSecretValue", "secretsmanager:UpdateSecretVersionStage"] : [])
      Resource = [for secret in secrets : var.secrets[secret].arn]
    } if length(secrets) > 0],
    [for secrets in [workload.secrets] : {
      Sid      = "SecretKeys"
      Effect   = "Allow"
      Action   = concat(["kms:Decrypt"], workload.writes_secrets ? ["kms:GenerateDataKey"] : [])
      Resource = distinct([for secret in secrets : var.secrets[secret].key_arn])
    } if length(secrets) > 0],
  ) }
}
