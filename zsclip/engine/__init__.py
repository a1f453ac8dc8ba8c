"""How a run is put together: its options and question, pictures on their way to embeddings, and shards to share."""
