"""What is kept on disk to save time: a cache of small values, and the store of image embeddings."""
