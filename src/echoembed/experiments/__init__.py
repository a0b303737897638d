"""The paper's figures and tables, and a few experiments beyond it: one file each.

Each file says what is tested and where in "Repetition Improves Language Model Embeddings" (ICLR 2025) it stands.
``reproduce.reproduce`` runs them: tidy Parquet, pictures, and the paper's figures beside ours.
"""
