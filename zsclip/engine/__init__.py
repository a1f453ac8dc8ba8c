"""How a run is put together: its checked options, its question, and pictures on their way to embeddings."""
