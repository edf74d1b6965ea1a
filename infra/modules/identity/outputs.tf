output "role_arns" {
  description = "Role of each workload."
  value       = { for name, role in aws_iam_role.workload : name => role.arn }
}

output "delivery_role_arn" {
  description = "Role of the jobs that deliver."
  value       = aws_iam_role.delivery.arn
}
