"""Where the parts meet: a language model under a recipe, as a ``SentenceTransformer``.

This room knows prompts, sources and the engine. It knows nothing of files of texts, evaluation, training or the command
line.
"""

from echoembed import versions

with versions.base_libraries():
    from echoembed.model.beside import Join
    from echoembed.model.calibration import Calibration
    from echoembed.model.transformer import EchoTransformer, transformer_of

__all__ = ["Calibration", "EchoTransformer", "Join", "transformer_of"]
