variable "name" {
  description = "Beginning of every role's name."
  type        = string
}

variable "namespace" {
  description = "Namespace of the service accounts that name no other."
  type        = string
}

variable "workloads" {
  description = <<-TEXT
    Who has a role: a service account, or principals outside the cluster, with a second factor if `mfa`. `objects` are
    read, put, written, or erased with all their versions, below a prefix. `secrets` are read, or also written.
  TEXT
  type = map(object({
    service_account = optional(string)
    namespace       = optional(string)
    principals      = optional(list(string), [])
    mfa             = optional(bool, false)
    objects         = optional(list(object({ bucket = string, prefix = string, mode = string })), [])
    secrets         = optional(list(string), [])
    writes_secrets  = optional(bool, false)
  }))
}

variable "cluster_arn" {
  description = "ARN of the cluster."
  type        = string
}

variable "cluster_issuer" {
  description = "Issuer of the cluster's tokens, without https://."
  type        = string
}

variable "cluster_issuer_arn" {
  description = "ARN of that issuer in IAM."
  type        = string
}

variable "github" {
  description = "Repository (OWNER/NAME), environment and branch of the jobs that deliver; provider_arn if the account has GitHub's provider already."
  type = object({
    repository   = string
    environment  = string
    branch       = string
    provider_arn = optional(string)
  })

  validation {
    condition     = !anytrue([for text in [var.github.repository, var.github.environment, var.github.branch] : can(regex("[*?:]", text))])
    error_message = "github has a wildcard or a colon; expected the exact names of one repository, environment and branch."
  }
}

variable "bucket_arns" {
  description = "ARN of each bucket, by purpose."
  type        = map(string)
}

variable "data_key_arn" {
  description = "KMS key of the buckets."
  type        = string
}

variable "secrets" {
  description = "ARN and KMS key of each secret, by name."
  type        = map(object({ arn = string, key_arn = string }))
}

variable "repository_arns" {
  description = "ARNs of the image repositories."
  type        = list(string)
}
