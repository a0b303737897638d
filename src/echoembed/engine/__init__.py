"""The packed forward: the padded forward's states, computed without padding and only for the tokens that are pooled.

- ``pack.py``: prompts laid end to end in one sequence
- ``attention.py``: attention inside each prompt, called by the model's own code
- ``varlen.py``: attention over a whole pack in one kernel, on a GPU
- ``last_layer.py``: the last layer, for pooled tokens only
- ``onednn.py``: matrix products with oneDNN, where it is faster than MKL
- ``fused.py``: norms, gates and rotary positions in fewer passes over memory
- ``patches.py``: replacement forwards for the model's modules, prepared once per model
- ``rounding.py``: states as 8-bit codes, and products of such codes
- ``int8.py``: linear layers in int8
- ``processor.py``: which dtypes this processor multiplies fast
- ``engine.py``: the engine: prompts in, pooled states out
- ``proof.py``: proof, when a model is loaded, that the engine gives the padded forward's states
- ``determinism.py``: whether the other prompts of a pack change a prompt's bits
- ``choice.py``: which forward a model runs
- ``gradients.py``: the packed forward in training
- ``padded_batch.py``: attention in training
- ``frozen.py``: cheaper forwards and gradients for modules with frozen weights

This room knows prompts as ids and spans. It knows nothing of texts, templates or recipes.
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
