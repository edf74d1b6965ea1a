# Three zones, each with its own NAT gateway, and GPU nodes on demand. Replace account, roles and repository by yours.
environment      = "production"
namespace        = "reentry"
region           = "eu-central-1"
account_id       = "333333333333"
administrators   = ["arn:aws:iam::333333333333:role/administrator"]
privacy_officers = ["arn:aws:iam::333333333333:user/privacy-officer"]
senders          = ["arn:aws:iam::333333333333:role/radar"]
analysts         = ["arn:aws:iam::333333333333:role/analyst"]
github           = { repository = "example/reentry" }
network = {
  zones        = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
  nat_per_zone = true
}
cluster = {
  version = "1.34"
  node_groups = {
    general = { instance_types = ["m7i.2xlarge"], min = 3, max = 12 }
    gpu     = { instance_types = ["g6.xlarge"], min = 0, max = 2, disk_gb = 100, gpu = true }
  }
}
