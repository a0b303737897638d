"""Text embeddings from any causal language model by letting it read the text twice."""
