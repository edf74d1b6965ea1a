# What the settings of an environment may say.

mock_provider "aws" {}

variables {
  environment      = "dev"
  namespace        = "reentry"
  region           = "eu-central-1"
  account_id       = "111111111111"
  administrators   = ["arn:aws:iam::111111111111:role/administrator"]
  privacy_officers = ["arn:aws:iam::111111111111:user/officer"]
  github           = { repository = "example/reentry" }
  network          = { subnet_ids = ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"] }
  cluster          = { version = "1.34", node_groups = { general = { instance_types = ["m7i.large"], min = 1, max = 3 } } }
  secret_values    = { gateway = "{}", control = "{}" }
}

run "subnets_that_exist_need_no_network" {
  command = plan
  assert {
    condition     = length(module.network) == 0
    error_message = "A second network was planned."
  }
}

run "wrong_settings_are_refused" {
  command = plan
  variables {
    environment    = "test"
    account_id     = "1111"
    administrators = []
    network        = {}
    erasure        = { vacuum = 15, noncurrent = 14, within = 30 }
  }
  expect_failures = [var.environment, var.account_id, var.administrators, var.network, var.erasure]
}

run "production_is_never_disposable" {
  command = plan
  variables {
    environment = "production"
    disposable  = true
  }
  expect_failures = [var.disposable]
}
