"""A replica that scores with an MLflow model, inside the environment of the `mlflow` runtime."""
