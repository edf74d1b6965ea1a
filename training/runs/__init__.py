"""Records of each training: the run in MLflow and the model card."""
