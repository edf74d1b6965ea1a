# One small zone pair for trying things out. Replace account, roles and repository by yours.
environment      = "dev"
namespace        = "reentry"
region           = "eu-central-1"
account_id       = "111111111111"
administrators   = ["arn:aws:iam::111111111111:role/administrator"]
privacy_officers = ["arn:aws:iam::111111111111:user/privacy-officer"]
github           = { repository = "example/reentry" }
network          = { zones = ["eu-central-1a", "eu-central-1b"] }
cluster = {
  version = "1.34"
  node_groups = {
    general = { instance_types = ["m7i.large"], min = 1, max = 3 }
  }
}
log_days    = 30
keep_images = 10
disposable  = true
