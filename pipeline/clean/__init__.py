"""From `raw` to `clean`: rows of all files become repaired whole tracks."""
