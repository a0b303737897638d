"""The best zero-shot embedder that a model holds for given texts: a search of prompt, layer, pooling and calibration.

- ``space.py``: what is searched
- ``evidence.py``: what a choice is judged by: labelled pairs, or the texts alone
- ``cost.py``: what a choice costs, in units of a stock classical embedding
- ``search.py``: the search
- ``report.py``: its table and its picture
"""
