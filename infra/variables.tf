variable "environment" {
  description = "Name of the environment. It is part of every name, and the environment of GitHub whose jobs deliver to it."
  type        = string

  validation {
    condition     = contains(["dev", "staging", "production"], var.environment)
    error_message = "environment is \"${var.environment}\"; expected dev, staging or production."
  }
}

variable "account_id" {
  description = "Account of the environment, preferably one of its own."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}$", var.account_id))
    error_message = "account_id is \"${var.account_id}\"; expected 12 digits."
  }
}

variable "region" {
  description = "Region of everything."
  type        = string
}

variable "namespace" {
  description = "Namespace of servers and gateway, in which k8s/overlays deploys. The pipeline has namespaces of its own, see access.tf."
  type        = string
}

variable "administrators" {
  description = "ARNs of the roles that run Terraform and administer the cluster."
  type        = set(string)

  validation {
    condition     = length(var.administrators) > 0
    error_message = "administrators is empty; expected at least the role that runs Terraform."
  }
}

variable "privacy_officers" {
  description = "ARNs of the people or roles that may act as privacy officer, with a second factor."
  type        = list(string)
}

variable "senders" {
  description = "ARNs of the principals that put files into the landing bucket."
  type        = list(string)
  default     = []
}

variable "analysts" {
  description = "ARNs of the principals that read clean tracks, features and predictions."
  type        = list(string)
  default     = []
}

variable "github" {
  description = "Repository (OWNER/NAME) and branch whose jobs deliver; provider_arn if the account has GitHub's provider already."
  type = object({
    repository   = string
    branch       = optional(string, "main")
    provider_arn = optional(string)
  })
}

variable "network" {
  description = "A new VPC: addresses, zones and NAT; or subnet_ids, private subnets that exist, in two zones or more."
  type = object({
    cidr         = optional(string, "10.0.0.0/16")
    zones        = optional(list(string), [])
    nat_per_zone = optional(bool, false)
    subnet_ids   = optional(list(string), [])
  })

  validation {
    condition     = (length(var.network.zones) >= 2) != (length(var.network.subnet_ids) >= 2)
    error_message = "network needs either two zones or more, or two subnet_ids or more."
  }
}

variable "cluster" {
  description = "Version of Kubernetes, networks that reach its API from outside, and node groups."
  type = object({
    version      = string
    public_cidrs = optional(list(string), [])
    node_groups = map(object({
      instance_types = list(string)
      min            = number
      max            = number
      disk_gb        = optional(number, 50)
      gpu            = optional(bool, false)
    }))
  })
}

variable "erasure" {
  description = <<-TEXT
    Days until deleted personal data is gone: an object of the landing bucket expires after `landing`, tables delete
    replaced files after `vacuum`, and S3 keeps old versions for `noncurrent`. The promised period is `within`.
  TEXT
  type = object({
    landing    = optional(number, 14)
    vacuum     = optional(number, 7)
    noncurrent = optional(number, 14)
    within     = optional(number, 30)
  })
  default = {}

  # S3 rounds a deadline up to the next midnight, and deletes within the day after it.
  validation {
    condition     = max(var.erasure.landing, var.erasure.vacuum) + var.erasure.noncurrent + 2 <= var.erasure.within
    error_message = "Personal data outlives the promised period: max(landing, vacuum) + noncurrent + 2 days must be at most erasure.within = ${var.erasure.within}."
  }
}

variable "log_days" {
  description = "Days of every log: access to buckets, network, control plane. One of the periods of CloudWatch."
  type        = number
  default     = 365
}

variable "keep_images" {
  description = "Number of images that each repository keeps."
  type        = number
  default     = 50
}

variable "disposable" {
  description = "Whether `destroy` may delete objects, images and secrets. Only for environments without data of value."
  type        = bool
  default     = false

  validation {
    condition     = !(var.disposable && var.environment == "production")
    error_message = "production cannot be disposable."
  }
}

variable "secret_versions" {
  description = "Version of each secret's value. Raise one to write the value in secret_values."
  type        = object({ gateway = number, control = number })
  default     = { gateway = 1, control = 1 }
}

variable "secret_values" {
  description = "Values of the secrets `gateway` and `control`, as JSON. Read only where a version is new, and stored nowhere."
  type        = object({ gateway = string, control = string })
  ephemeral   = true
  sensitive   = true
}
