variable "name" {
  description = "Name of the cluster."
  type        = string
}

variable "kubernetes_version" {
  description = "Version of Kubernetes, such as 1.34."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets of the nodes, in two zones or more."
  type        = list(string)
}

variable "public_cidrs" {
  description = "Networks that reach the API of the cluster from outside. Empty: only the VPC does."
  type        = list(string)

  validation {
    condition     = !contains(var.public_cidrs, "0.0.0.0/0")
    error_message = "public_cidrs has 0.0.0.0/0; expected the networks of your administrators and runners."
  }
}

variable "node_groups" {
  description = "Node groups by name. `gpu` chooses the image with NVIDIA's driver, the label and the taint."
  type = map(object({
    instance_types = list(string)
    min            = number
    max            = number
    disk_gb        = optional(number, 50)
    gpu            = optional(bool, false)
  }))
}

variable "administrators" {
  description = "ARNs of the roles that administer the cluster."
  type        = set(string)
}

variable "deployer_arn" {
  description = "Role that rolls out releases."
  type        = string
}

variable "key_arn" {
  description = "KMS key of the cluster's secrets and logs."
  type        = string
}

variable "log_days" {
  description = "Days of the control plane's log."
  type        = number
}

locals {
  issuer = trimprefix(aws_eks_cluster.this.identity[0].oidc[0].issuer, "https://")
  trust = { for service in ["eks.amazonaws.com", "ec2.amazonaws.com"] : service => jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = service }
      Action    = "sts:AssumeRole"
    }]
  }) }
}
