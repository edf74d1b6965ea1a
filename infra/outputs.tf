output "buckets" {
  description = "Name of each bucket, by purpose."
  value       = module.store.names
}

output "images" {
  description = "URL of each image repository."
  value       = module.registry.urls
}

output "cluster" {
  description = "Name of the cluster, for `aws eks update-kubeconfig --name`."
  value       = local.name
}

output "roles" {
  description = "Role of each workload: the annotation eks.amazonaws.com/role-arn of its service account."
  value       = module.identity.role_arns
}

output "delivery_role" {
  description = "Role of GitHub's jobs, for aws-actions/configure-aws-credentials."
  value       = module.identity.delivery_role_arn
}

output "secrets" {
  description = "ARN of each secret."
  value       = module.secrets.arns
}
