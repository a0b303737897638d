"""From a text to token ids and the span that is pooled.

Knows templates and tokenizers; knows no models.
"""
