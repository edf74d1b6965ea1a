# Container images: tags never move, each push is scanned, old images expire.

variable "repositories" {
  description = "Names of the images."
  type        = set(string)
}

variable "key_arn" {
  description = "KMS key that encrypts the layers."
  type        = string
}

variable "keep_images" {
  description = "Number of images that each repository keeps. A rollback needs its image."
  type        = number
}

variable "force_destroy" {
  description = "Whether `destroy` also deletes the images."
  type        = bool
}

resource "aws_ecr_repository" "this" {
  for_each             = var.repositories
  name                 = each.key
  image_tag_mutability = "IMMUTABLE"
  force_delete         = var.force_destroy

  image_scanning_configuration {
    scan_on_push = true
  }

  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = var.key_arn
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  for_each   = aws_ecr_repository.this
  repository = each.value.name
  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "Images without a tag"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 7 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "All but the newest images"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = var.keep_images }
        action       = { type = "expire" }
      },
    ]
  })
}

output "arns" {
  description = "ARNs of the repositories."
  value       = [for repository in aws_ecr_repository.this : repository.arn]
}

output "urls" {
  description = "URL of each repository, by name."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}
