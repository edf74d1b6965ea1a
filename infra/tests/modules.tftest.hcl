# The modules by themselves, with a provider that creates nothing: `terraform test`.

mock_provider "aws" {
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::111111111111:role/mock" }
  }
  mock_resource "aws_iam_openid_connect_provider" {
    defaults = { arn = "arn:aws:iam::111111111111:oidc-provider/mock" }
  }
  mock_resource "aws_eks_cluster" {
    defaults = { identity = [{ oidc = [{ issuer = "https://issuer.example.com/1" }] }] }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:111111111111:log-group:mock" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
}

variables {
  # identity
  name      = "reentry-staging"
  namespace = "reentry-staging"
  workloads = {
    reader = { service_account = "reader", objects = [{ bucket = "lake", prefix = "clean/", mode = "read" }] }
    nobody = { principals = [] }
  }
  cluster_arn        = "arn:aws:eks:eu-central-1:111111111111:cluster/reentry-staging"
  cluster_issuer     = "issuer.example.com/1"
  cluster_issuer_arn = "arn:aws:iam::111111111111:oidc-provider/issuer.example.com/1"
  github             = { repository = "example/reentry", environment = "staging", branch = "main" }
  bucket_arns        = { lake = "arn:aws:s3:::lake" }
  data_key_arn       = "arn:aws:kms:eu-central-1:111111111111:key/data"
  secrets            = { pseudonym = { arn = "arn:aws:secretsmanager:eu-central-1:111111111111:secret:p", key_arn = "arn:aws:kms:eu-central-1:111111111111:key/p" } }
  repository_arns    = ["arn:aws:ecr:eu-central-1:111111111111:repository/reentry-triton"]

  # cluster
  kubernetes_version = "1.34"
  subnet_ids         = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"]
  public_cidrs       = []
  administrators     = ["arn:aws:iam::111111111111:role/administrator"]
  deployer_arn       = "arn:aws:iam::111111111111:role/reentry-staging-delivery"
  key_arn            = "arn:aws:kms:eu-central-1:111111111111:key/platform"
  log_days           = 30
  node_groups = {
    general = { instance_types = ["m7i.large"], min = 1, max = 3 }
    gpu     = { instance_types = ["g6.xlarge"], min = 0, max = 1, gpu = true }
  }

  # registry
  repositories  = ["reentry-triton"]
  force_destroy = false
  keep_images   = 5
}

run "the_delivery_role_trusts_one_repository_environment_and_branch" {
  module { source = "./modules/identity" }

  assert {
    condition = jsondecode(aws_iam_role.delivery.assume_role_policy).Statement[0].Condition == {
      StringEquals = {
        "token.actions.githubusercontent.com:aud" = "sts.amazonaws.com"
        "token.actions.githubusercontent.com:ref" = "refs/heads/main"
        "token.actions.githubusercontent.com:sub" = "repo:example/reentry:environment:staging"
      }
    }
    error_message = "The trust of the delivery role is not exact."
  }
  assert {
    condition = jsondecode(aws_iam_role.workload["reader"].assume_role_policy).Statement[0].Condition == {
      StringEquals = {
        "issuer.example.com/1:aud" = "sts.amazonaws.com"
        "issuer.example.com/1:sub" = "system:serviceaccount:reentry-staging:reader"
      }
    }
    error_message = "The trust of a workload is not exact."
  }
  assert {
    condition     = keys(aws_iam_role.workload) == ["reader"]
    error_message = "A role that nobody may assume was made."
  }
}

run "a_wildcard_in_the_repository_is_refused" {
  command = plan
  module { source = "./modules/identity" }
  variables { github = { repository = "example/*", environment = "staging", branch = "main" } }
  expect_failures = [var.github]
}

run "a_provider_of_github_that_exists_is_used" {
  command = plan
  module { source = "./modules/identity" }
  variables {
    github = { repository = "example/reentry", environment = "staging", branch = "main", provider_arn = "arn:aws:iam::111111111111:oidc-provider/existing" }
  }
  assert {
    condition     = length(aws_iam_openid_connect_provider.github) == 0
    error_message = "A second provider for GitHub was planned."
  }
}

run "a_cluster_is_private_and_only_pods_for_gpus_run_on_gpu_nodes" {
  module { source = "./modules/cluster" }

  assert {
    condition     = !aws_eks_cluster.this.vpc_config[0].endpoint_public_access && aws_eks_cluster.this.vpc_config[0].endpoint_private_access
    error_message = "The API of the cluster is public."
  }
  assert {
    condition     = [for taint in aws_eks_node_group.this["gpu"].taint : taint.key] == ["nvidia.com/gpu"] && length(aws_eks_node_group.this["general"].taint) == 0
    error_message = "Only GPU nodes have the taint."
  }
  assert {
    condition     = aws_eks_node_group.this["gpu"].ami_type == "AL2023_x86_64_NVIDIA" && aws_eks_node_group.this["gpu"].labels == tomap({ "nvidia.com/gpu.present" = "true" })
    error_message = "A GPU node lacks the driver or the label that pods select."
  }
  assert {
    condition     = alltrue([for template in aws_launch_template.node : template.metadata_options[0].http_tokens == "required" && template.metadata_options[0].http_put_response_hop_limit == 1])
    error_message = "Pods reach the identity of their node."
  }
  assert {
    condition     = jsondecode(aws_eks_addon.network.configuration_values).enableNetworkPolicy == "true"
    error_message = "Network policies have no effect."
  }
  assert {
    condition     = aws_eks_access_entry.deployer.kubernetes_groups == toset(["reentry-deployers"])
    error_message = "The delivery is not in the group of k8s/platform/access.yaml."
  }
}

run "a_cluster_open_to_the_world_is_refused" {
  command = plan
  module { source = "./modules/cluster" }
  variables { public_cidrs = ["0.0.0.0/0"] }
  expect_failures = [var.public_cidrs]
}

run "named_networks_reach_the_cluster_from_outside" {
  command = plan
  module { source = "./modules/cluster" }
  variables { public_cidrs = ["192.0.2.0/24"] }
  assert {
    condition     = aws_eks_cluster.this.vpc_config[0].endpoint_public_access && aws_eks_cluster.this.vpc_config[0].public_access_cidrs == toset(["192.0.2.0/24"])
    error_message = "The named network is not admitted, or others are."
  }
}

run "tags_of_images_never_move" {
  command = plan
  module { source = "./modules/registry" }
  assert {
    condition     = aws_ecr_repository.this["reentry-triton"].image_tag_mutability == "IMMUTABLE" && aws_ecr_repository.this["reentry-triton"].image_scanning_configuration[0].scan_on_push
    error_message = "A pushed image can be replaced, or is not scanned."
  }
}
