"""The search for a model's best zero-shot recipe on given texts, over prompt, layer, pooling and calibration.

- ``space.py``: the candidates
- ``evidence.py``: how candidates are scored: by labelled pairs, or by the texts alone
- ``cost.py``: what a candidate costs, in units of a stock classical embedding
- ``scores.py``: the scores of candidates
- ``search.py``: the search
- ``report.py``: the table and the picture of its results
"""
