"""Pictures and their names -> a model."""
