"""From a text to token ids and the span that is pooled.

This room knows templates and tokenizers. It knows no models.
"""
