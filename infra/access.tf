# Who reads and writes what: the workloads in the cluster, the secrets, and the keys of both.

locals {
  tables = ["raw", "quarantine", "clean", "features", "predictions", "verdicts"]

  # Whoever creates a table first proves with such an object that the store has conditional writes.
  probe = { bucket = "lake", prefix = "_conditional-write-", mode = "write" }

  workloads = {
    ingest = {
      namespace       = "reentry-pipeline"
      service_account = "reentry-ingest"
      secrets         = ["pseudonym-keys"]
      objects = concat(
        [{ bucket = "landing", prefix = "", mode = "read" }, local.probe],
        [for table in ["raw", "quarantine"] : { bucket = "lake", prefix = "${table}/", mode = "write" }],
      )
    }
    # `reentry lake clean` and `reentry features build`; a track beyond repair goes to quarantine.
    build = {
      namespace       = "reentry-pipeline"
      service_account = "reentry-build"
      objects = concat(
        [{ bucket = "lake", prefix = "raw/", mode = "read" }, local.probe],
        [for table in ["quarantine", "clean", "features"] : { bucket = "lake", prefix = "${table}/", mode = "write" }],
      )
    }
    # One build of the table of features by itself, see k8s/pipeline/features.
    features = {
      namespace       = "reentry-pipeline"
      service_account = "reentry-features"
      objects = [
        { bucket = "lake", prefix = "clean/", mode = "read" },
        { bucket = "lake", prefix = "features/", mode = "write" },
        local.probe,
      ]
    }
    # Training and the gate, which installs and promotes versions.
    train = {
      namespace       = "reentry-pipeline"
      service_account = "reentry-train"
      objects = concat(
        [for table in ["clean", "features"] : { bucket = "lake", prefix = "${table}/", mode = "read" }],
        [{ bucket = "lake", prefix = "verdicts/", mode = "write" }, local.probe],
        [for bucket in ["mlflow", "models"] : { bucket = bucket, prefix = "", mode = "write" }],
      )
    }
    score = {
      namespace       = "reentry-bulk"
      service_account = "reentry-bulk"
      objects = [
        { bucket = "models", prefix = "", mode = "read" },
        { bucket = "lake", prefix = "clean/", mode = "read" },
        { bucket = "lake", prefix = "predictions/", mode = "write" },
        local.probe,
      ]
    }
    # `reentry lake maintain`, daily: it keeps what labelled models were trained on.
    maintain = {
      namespace       = "reentry-pipeline"
      service_account = "reentry-maintain"
      objects = concat(
        [for table in local.tables : { bucket = "lake", prefix = "${table}/", mode = "write" }],
        [{ bucket = "models", prefix = "", mode = "read" }],
      )
    }
    # `reentry lake exporter`: logs of all tables, and the rows of two that contain no measurements.
    monitor = {
      namespace       = "reentry-pipeline"
      service_account = "reentry-monitor"
      objects = [for prefix in concat([for table in local.tables : "${table}/_delta_log/"], ["quarantine/", "verdicts/"]) :
      { bucket = "lake", prefix = prefix, mode = "read" }]
    }
    # Triton's pods.
    serve = {
      service_account = "reentry"
      objects         = [{ bucket = "models", prefix = "", mode = "read" }]
    }
    # The gateway and its workers.
    gateway = {
      service_account = "reentry-gateway"
      objects         = [{ bucket = "jobs", prefix = "", mode = "write" }]
    }
    # External Secrets, see k8s/external-secrets.
    secrets = {
      service_account = "reentry-secrets"
      secrets         = ["gateway", "control"]
      objects         = []
    }
    # Systems and people outside the cluster. Without a name in the settings, the role does not exist.
    sender = {
      principals = var.senders
      objects    = [{ bucket = "landing", prefix = "", mode = "put" }]
    }
    analyst = {
      principals = var.analysts
      objects    = [for table in ["clean", "features", "predictions", "verdicts"] : { bucket = "lake", prefix = "${table}/", mode = "read" }]
    }
    # `reentry privacy erase`, `audit` and `rekey`: all tables, and earlier versions of every object.
    privacy-officer = {
      principals     = var.privacy_officers
      mfa            = true
      secrets        = ["pseudonym-keys"]
      writes_secrets = true
      objects = concat(
        [for table in local.tables : { bucket = "lake", prefix = "${table}/", mode = "erase" }],
        [for bucket in ["landing", "jobs"] : { bucket = bucket, prefix = "", mode = "erase" }],
        [{ bucket = "mlflow", prefix = "", mode = "read" }],
      )
    }
  }

  role_arns = { for name, _ in local.workloads : name => "${local.roles}-${name}" }

  # Whoever runs Terraform reads what it writes, because the provider reads each version back. So it writes no
  # pseudonym key: the privacy officer does.
  secrets = {
    pseudonym-keys = {
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
      users       = [for name, workload in local.workloads : local.role_arns[name] if length(workload.objects) > 0]
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
