locals {
  github     = "token.actions.githubusercontent.com"
  github_arn = var.github.provider_arn == null ? aws_iam_openid_connect_provider.github[0].arn : var.github.provider_arn
}

# An account has one provider for GitHub: give provider_arn if it exists already.
resource "aws_iam_openid_connect_provider" "github" {
  count          = var.github.provider_arn == null ? 1 : 0
  url            = "https://${local.github}"
  client_id_list = ["sts.amazonaws.com"]
}

# A job of this repository, in this environment of GitHub, from this branch; each condition is an exact text.
resource "aws_iam_role" "delivery" {
  name                 = "${var.name}-delivery"
  max_session_duration = 3600
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = local.github_arn }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = {
        StringEquals = {
          "${local.github}:aud" = "sts.amazonaws.com"
          "${local.github}:sub" = "repo:${var.github.repository}:environment:${var.github.environment}"
          "${local.github}:ref" = "refs/heads/${var.github.branch}"
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "delivery" {
  name = "access"
  role = aws_iam_role.delivery.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "RegistryLogin" # has no resource of its own
        Effect   = "Allow"
        Action   = ["ecr:GetAuthorizationToken"]
        Resource = "*"
      },
      {
        Sid    = "Push"
        Effect = "Allow"
        Action = [
          "ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:CompleteLayerUpload",
          "ecr:GetDownloadUrlForLayer", "ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
        ]
        Resource = var.repository_arns
      },
      {
        Sid      = "Cluster" # its address; what the role may do there is in k8s/platform/access.yaml
        Effect   = "Allow"
        Action   = ["eks:DescribeCluster"]
        Resource = [var.cluster_arn]
      },
    ]
  })
}
