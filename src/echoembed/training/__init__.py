"""Fine-tuning: from a configuration and rows of texts to a model with a recipe (paper, Section 4.4, Appendix F)."""
