"""What is kept of each training: the record in MLflow and the model card."""
