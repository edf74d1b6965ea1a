# Like production, with fewer nodes and one NAT gateway. Replace account, roles and repository by yours.
environment      = "staging"
namespace        = "reentry-staging"
region           = "eu-central-1"
account_id       = "222222222222"
administrators   = ["arn:aws:iam::222222222222:role/administrator"]
privacy_officers = ["arn:aws:iam::222222222222:user/privacy-officer"]
senders          = ["arn:aws:iam::222222222222:role/radar"]
analysts         = ["arn:aws:iam::222222222222:role/analyst"]
github           = { repository = "example/reentry" }
network          = { zones = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
cluster = {
  version = "1.34"
  node_groups = {
    general = { instance_types = ["m7i.xlarge"], min = 2, max = 4 }
  }
}
log_days = 90
