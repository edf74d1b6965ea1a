output "arn" {
  description = "ARN of the cluster."
  value       = aws_eks_cluster.this.arn
}

output "issuer" {
  description = "Issuer of the tokens of service accounts, without https://."
  value       = local.issuer
}

output "issuer_arn" {
  description = "ARN of that issuer in IAM."
  value       = aws_iam_openid_connect_provider.this.arn
}
