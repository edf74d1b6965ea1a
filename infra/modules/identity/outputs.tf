output "workload_role_arns" {
  description = "Role of each workload: the annotation eks.amazonaws.com/role-arn of its service account."
  value       = { for name, role in aws_iam_role.workload : name => role.arn }
}

output "delivery_role_arn" {
  description = "Role of the jobs that deliver."
  value       = aws_iam_role.delivery.arn
}

output "privacy_officer_role_arn" {
  description = "Role of the privacy officer."
  value       = aws_iam_role.privacy.arn
}
