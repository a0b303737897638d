"""The packed forward: the same states as the padded one, without the padding and what nobody pools.

- ``layout.py``: how texts lie one after the other in one sequence
- ``attention.py``: attention inside each text, called by the model's own code
- ``varlen.py``: attention of a whole pack in one kernel, on a GPU
- ``trim.py``: the last layer, for pooled tokens only
- ``linear.py``: matrix products as fast as the processor has them
- ``lighter.py``: norms, gates and rotations in fewer passes over memory
- ``int8.py``: linear layers in eight bits
- ``packed.py``: the engine: texts in, pooled states out
- ``check.py``: proof, at load, that it gives the padded forward's states
- ``invariance.py``: whether neighbours change a text's bits
- ``selector.py``: which forward a model runs
"""

from echoembed.engine.check import Choice, choose
from echoembed.engine.int8 import quantize
from echoembed.engine.packed import PackedEngine
from echoembed.engine.selector import Engine, Selector

__all__ = ["Choice", "Engine", "PackedEngine", "Selector", "choose", "quantize"]
