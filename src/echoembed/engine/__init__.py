"""The packed forward: the same states as the padded one, without the padding and what nobody pools.

- ``pack.py``: how prompts lie one after the other in one sequence
- ``attention.py``: attention inside each prompt, called by the model's own code
- ``varlen.py``: attention of a whole pack in one kernel, on a GPU
- ``last_layer.py``: the last layer, for pooled tokens only
- ``onednn.py``: matrix products as fast as the processor has them
- ``fused.py``: norms, gates and rotations in fewer passes over memory
- ``patches.py``: the modules' other forwards, prepared once for each model
- ``rounding.py``: states as codes of eight bits, and their products
- ``int8.py``: linear layers in eight bits
- ``processor.py``: what this processor multiplies fast
- ``engine.py``: the engine: prompts in, pooled states out
- ``proof.py``: proof, at load, that it gives the padded forward's states
- ``determinism.py``: whether neighbours change a prompt's bits
- ``choice.py``: which forward a model runs
- ``gradients.py``: the packed forward in training: ``grid.py`` is its attention, ``frozen.py`` its cheaper pieces

Knows prompts as ids and spans; knows nothing of texts, templates or recipes.
"""

from echoembed.engine.choice import Engine, Selector
from echoembed.engine.engine import PackedEngine, tokens_in_flight
from echoembed.engine.int8 import float_layers, parameter_count, quantize
from echoembed.engine.processor import Processor
from echoembed.engine.proof import Choice, choose

__all__ = [
    "Choice",
    "Engine",
    "PackedEngine",
    "Processor",
    "Selector",
    "choose",
    "float_layers",
    "parameter_count",
    "quantize",
    "tokens_in_flight",
]
