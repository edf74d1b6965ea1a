"""Bulk scoring: one version of the model scores a frozen version of the table `clean`, in parts of whole tracks."""
