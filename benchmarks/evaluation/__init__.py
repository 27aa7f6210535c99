"""How good embeddings are, and which are better than others."""
