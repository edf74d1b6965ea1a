# Who reads and writes what: the workloads in the cluster, the secrets, and the keys of both.

locals {
  workloads = {
    # Takes measurements in, replaces serial numbers by pseudonyms, and sets bad rows aside.
    ingest = {
      service_account = "reentry-ingest"
      objects = [
        { bucket = "landing", mode = "read" },
        { bucket = "lake", prefix = "raw/", mode = "write" },
        { bucket = "lake", prefix = "quarantine/", mode = "write" },
        { bucket = "lake", prefix = "clean/", mode = "write" },
      ]
      secrets = ["pseudonym"]
    }
    # Builds features and trains.
    train = {
      service_account = "reentry-train"
      objects = [
        { bucket = "lake", prefix = "clean/", mode = "read" },
        { bucket = "lake", prefix = "features/", mode = "write" },
        { bucket = "mlflow", mode = "write" },
      ]
    }
    # Installs and promotes versions after their gate.
    promote = {
      service_account = "reentry-promote"
      objects = [
        { bucket = "mlflow", mode = "read" },
        { bucket = "models", mode = "write" },
      ]
    }
    # Scores whole tables.
    score = {
      service_account = "reentry-score"
      objects = [
        { bucket = "lake", prefix = "clean/", mode = "read" },
        { bucket = "lake", prefix = "predictions/", mode = "write" },
        { bucket = "models", mode = "read" },
      ]
    }
    # Triton's pods.
    serve = {
      service_account = "reentry"
      objects         = [{ bucket = "models", mode = "read" }]
    }
    # The gateway and its workers.
    gateway = {
      service_account = "reentry-gateway"
      objects         = [{ bucket = "jobs", mode = "write" }]
    }
    # External Secrets, see k8s/external-secrets.
    secrets = {
      service_account = "reentry-secrets"
      secrets         = ["gateway", "control"]
    }
  }

  role_arns = { for name, _ in local.workloads : name => "${local.roles}-${name}" }

  # Whoever runs Terraform reads what it writes, because the provider reads each version back. So it writes no
  # pseudonym key: the privacy officer does.
  secrets = {
    pseudonym = {
      description = "Keys of the pseudonyms"
      key_arn     = module.keys["pseudonym"].arn
      readers     = local.readers.pseudonym
    }
    gateway = {
      description = "Database, Redis and store of the gateway"
      key_arn     = module.keys["secrets"].arn
      readers     = local.readers.secrets
      version     = var.secret_versions.gateway
    }
    control = {
      description = "Control key of the servers"
      key_arn     = module.keys["secrets"].arn
      readers     = local.readers.secrets
      version     = var.secret_versions.control
    }
  }

  readers = {
    pseudonym = [local.role_arns.ingest, local.privacy_officer_arn]
    secrets   = concat([local.role_arns.secrets], tolist(var.administrators))
  }

  keys = {
    data = {
      description = "Buckets"
      users       = [for name, workload in local.workloads : local.role_arns[name] if length(try(workload.objects, [])) > 0]
      services    = ["s3"]
    }
    pseudonym = {
      description = "The secret with the keys of the pseudonyms"
      users       = local.readers.pseudonym
      services    = ["secretsmanager"]
    }
    secrets = {
      description = "Secrets of the services"
      users       = local.readers.secrets
      services    = ["secretsmanager"]
    }
    platform = {
      description = "Images, the cluster's secrets, logs"
      users       = []
      services    = ["ecr", "eks"]
      grantors    = tolist(var.administrators)
      logs        = true
    }
  }
}

module "keys" {
  source   = "./modules/kms"
  for_each = local.keys

  name        = "${local.name}-${each.key}"
  description = each.value.description
  account_id  = var.account_id
  users       = each.value.users
  via         = [for service in each.value.services : "${service}.${var.region}.amazonaws.com"]
  grantors    = try(each.value.grantors, [])
  log_region  = try(each.value.logs, false) ? var.region : null
}
