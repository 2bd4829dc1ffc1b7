"""The process that keeps a model server of somebody else's."""
