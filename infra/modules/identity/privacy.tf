# Erases personal data before its versions expire, and finds the pseudonym of a person. Reads no measurements.
resource "aws_iam_role" "privacy" {
  name                 = "${var.name}-privacy-officer"
  max_session_duration = 3600
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { AWS = var.privacy_officers }
      Action    = "sts:AssumeRole"
      Condition = { Bool = { "aws:MultiFactorAuthPresent" = "true" } }
    }]
  })
}

resource "aws_iam_role_policy" "privacy" {
  name = "access"
  role = aws_iam_role.privacy.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "FindVersions"
        Effect   = "Allow"
        Action   = ["s3:ListBucket", "s3:ListBucketVersions"]
        Resource = [for bucket in var.erasable : var.bucket_arns[bucket]]
      },
      {
        Sid      = "DeleteVersions"
        Effect   = "Allow"
        Action   = ["s3:DeleteObject", "s3:DeleteObjectVersion"]
        Resource = [for bucket in var.erasable : "${var.bucket_arns[bucket]}/*"]
      },
      {
        Sid      = "PseudonymKey"
        Effect   = "Allow"
        Action   = ["secretsmanager:DescribeSecret", "secretsmanager:GetSecretValue", "secretsmanager:PutSecretValue"]
        Resource = [var.secrets["pseudonym"].arn]
      },
      {
        Sid      = "KeyOfThePseudonymKey"
        Effect   = "Allow"
        Action   = ["kms:Decrypt", "kms:GenerateDataKey"]
        Resource = [var.secrets["pseudonym"].key_arn]
      },
    ]
  })
}
