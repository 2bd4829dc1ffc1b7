"""Where models come from: a path, the web, S3, the Hugging Face hub. See docs/models.md."""
