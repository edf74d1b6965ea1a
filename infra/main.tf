locals {
  name  = "reentry-${var.environment}"
  roles = "arn:aws:iam::${var.account_id}:role/${local.name}"

  privacy_officer_arn = "${local.roles}-privacy-officer"
  subnet_ids          = length(var.network.subnet_ids) > 0 ? var.network.subnet_ids : module.network[0].private_subnet_ids
}

module "network" {
  source = "./modules/network"
  count  = length(var.network.subnet_ids) > 0 ? 0 : 1

  name         = local.name
  region       = var.region
  cidr         = var.network.cidr
  zones        = var.network.zones
  nat_per_zone = var.network.nat_per_zone
  key_arn      = module.keys["platform"].arn
  log_days     = var.log_days
}

module "store" {
  source = "./modules/store"

  prefix              = "${local.name}-${var.account_id}"
  account_id          = var.account_id
  key_arn             = module.keys["data"].arn
  privacy_officer_arn = local.privacy_officer_arn
  landing_days        = var.erasure.landing
  noncurrent_days     = var.erasure.noncurrent
  log_days            = var.log_days
  force_destroy       = var.disposable
}

module "registry" {
  source = "./modules/registry"

  repositories  = ["reentry-triton", "reentry-gateway", "reentry-client", "reentry-pipeline", "reentry-train"]
  key_arn       = module.keys["platform"].arn
  keep_images   = var.keep_images
  force_destroy = var.disposable
}

module "cluster" {
  source = "./modules/cluster"

  name               = local.name
  kubernetes_version = var.cluster.version
  subnet_ids         = local.subnet_ids
  public_cidrs       = var.cluster.public_cidrs
  node_groups        = var.cluster.node_groups
  administrators     = var.administrators
  deployer_arn       = module.identity.delivery_role_arn
  key_arn            = module.keys["platform"].arn
  log_days           = var.log_days
}

module "secrets" {
  source = "./modules/secrets"

  prefix        = "reentry/${var.environment}"
  secrets       = local.secrets
  values        = var.secret_values
  recovery_days = var.disposable ? 0 : 30
}

module "identity" {
  source = "./modules/identity"

  name               = local.name
  namespace          = var.namespace
  workloads          = local.workloads
  cluster_arn        = "arn:aws:eks:${var.region}:${var.account_id}:cluster/${local.name}"
  cluster_issuer     = module.cluster.issuer
  cluster_issuer_arn = module.cluster.issuer_arn
  github             = merge(var.github, { environment = var.environment })
  bucket_arns        = module.store.arns
  data_key_arn       = module.keys["data"].arn
  secrets            = { for name, arn in module.secrets.arns : name => { arn = arn, key_arn = local.secrets[name].key_arn } }
  repository_arns    = module.registry.arns
}
