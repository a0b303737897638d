"""Models that cannot be loaded, or not as the recipe asks."""

from __future__ import annotations

from collections.abc import Iterable

from echoembed.errors.base import ModelError, TextError, quoted


def tokenizer_unsupported(kind: str) -> ModelError:
    """A tokenizer that is not built on the ``tokenizers`` library."""
    return ModelError(
        f"The model's tokenizer is a {kind}, which has no 'tokenizers' backend. Exact spans need one: "
        "add a tokenizer.json to the model's folder."
    )


def tokenizer_added_token(token: str) -> ModelError:
    """An added token that the tokenizer finds in pieces of a prompt differently than in whole texts."""
    return ModelError(
        f"The model's tokenizer has an added token {quoted(token)}, which it finds in a part of a prompt differently "
        "than in a whole text. Spans must be exact: remove that token from tokenizer.json, or choose another model."
    )


def tokenizer_broken(reason: str) -> ModelError:
    """A tokenizer that fails: its vocabulary contradicts itself, or the library has a fault."""
    return ModelError(
        f"The model's tokenizer failed: {quoted(reason, 160)}. Its tokenizer.json contradicts itself, or the "
        "'tokenizers' library cannot read it. Save the tokenizer again, or choose another model."
    )


def model_not_language_model(name: str, model_type: str) -> ModelError:
    """A model of another kind."""
    return ModelError(
        f"{name} is a model of type {model_type!r}, which transformers has neither as a causal nor as a masked "
        "language model. Choose a language model such as a Llama, Mistral, Qwen, Gemma, GPT-2 or BERT."
    )


def model_unreadable(name: str, reason: str) -> ModelError:
    """A model that transformers refuses."""
    return ModelError(
        f"{name} cannot be loaded: {quoted(reason, 200)}. "
        "A model is a folder with config.json, a tokenizer and safetensors weights. Fix what the reason names, or "
        "choose another model."
    )


def model_needs_code(name: str, file: str, code: str) -> ModelError:
    """A model that cannot be loaded without its own code."""
    return ModelError(
        f"{name} names code of its own in {file} ({quoted(code, 80)}) and would be another model without "
        "that code. Code that comes with a model is never run. Choose a model of which transformers has every part."
    )


def model_config_misfit(name: str, configured: str, weights: str) -> ModelError:
    """A configuration that does not fit the weights beside it."""
    return ModelError(
        f"{name} has a config.json and weights of different models: by config.json, {configured}; in the weights, "
        f"{weights}. Use the config.json that the weights were saved with."
    )


def model_weights_whole(name: str, key: str, dtype: str) -> ModelError:
    """Quantised weights without the settings that say what their numbers stand for."""
    return ModelError(
        f"{name} has whole numbers ({dtype}) in {key}, and its config.json has no quantization_config that says what "
        "they stand for. Save the model dequantised, or choose its version in float16, bfloat16 or float32."
    )


def model_token_unknown(name: str, id_: int, size: int) -> ModelError:
    """A tokenizer of another model."""
    return ModelError(
        f"{name} has embeddings for {size} tokens, but its tokenizer gives the id {id_}. Both must belong to the same "
        "model: fetch it again, or choose another."
    )


def model_weights_missing(name: str, keys: Iterable[str]) -> ModelError:
    """Weights that the file lacks and that would silently be random."""
    listed = list(keys)
    return ModelError(
        f"{name} lacks {len(listed)} of its weights ({', '.join(listed[:3])}{', …' if len(listed) > 3 else ''}), which "
        "would be random. All are needed: fetch the model again, or use the config.json that was saved with them."
    )


def model_weights_unused(name: str, keys: Iterable[str]) -> ModelError:
    """Weights of layers for which the configuration has no place."""
    listed = list(keys)
    return ModelError(
        f"{name} holds {len(listed)} weights that its config.json has no place for ({', '.join(listed[:3])}"
        f"{', …' if len(listed) > 3 else ''}). Without them it would be another model: use their own config.json."
    )


def model_attention(name: str, wanted: str, found: str) -> ModelError:
    """A model whose attention is not what the recipe says."""
    return ModelError(
        f"{name} should read with {wanted} attention, but a probe shows that {found}. "
        f"Its vectors would be another recipe's: choose a recipe with the attention it has, or another model."
    )


def model_padding_leaks(name: str, difference: float) -> ModelError:
    """A model whose states depend on padding."""
    return ModelError(
        f"{name} gives other states when a text is padded (largest relative difference {difference:.1e}). "
        "States must not depend on padding: choose another model or attention implementation."
    )


def model_layer(name: str, layer: int, count: int) -> ModelError:
    """A layer that does not exist."""
    return ModelError(
        f"{name} has {count} layers, but layer {layer} was asked for. Allowed: 0 (the token embeddings) to {count}, "
        f"or -1 (the last) to {-count - 1}. Choose one of these."
    )


def model_layer_unsupported(name: str) -> ModelError:
    """A model that cannot be cut."""
    return ModelError(
        f"{name} cannot be cut at a layer: the states of the cut model are not those of the whole one. "
        "Use layer=-1 for this architecture."
    )


def model_states_not_finite(name: str) -> ModelError:
    """States with NaN or infinity."""
    return ModelError(
        f"{name} gave states that are not finite numbers. No vector was made: load it with dtype='float32', "
        "or check its weights."
    )


def model_states_equal(name: str) -> ModelError:
    """States that do not depend on the tokens."""
    return ModelError(
        f"{name} gave the same state for different tokens, or only zeros: its vectors would not depend on the "
        "text. Its weights are empty or out of range: copy them again, or choose another model."
    )


def model_states_zero(name: str) -> ModelError:
    """States from which no vector with a direction can be made."""
    return ModelError(
        f"{name} gave states that are zero, or too large or small to be scaled to length 1. No vector was made: load "
        "it with dtype='float32', or check its weights."
    )


def vector_zero(dimensions: int) -> ModelError:
    """A vector without a direction."""
    return ModelError(
        f"A vector came out as {dimensions} zeros, which have no direction. It was not returned: "
        "keep more dimensions (truncate_dim), or check the weights of the model and of its last modules."
    )


def model_states_same(recipe: str, layer: int) -> ModelError:
    """A recipe that pools what is the same for every text."""
    return ModelError(
        f"The recipe {recipe!r} pools no token that has seen the text at layer {layer}, so that all texts would have "
        "the same vector. Allowed: to pool the text, or above layer 0 what comes after it. Change template or layer."
    )


# Calibrations


def calibration_not_finite() -> ModelError:
    """Vectors or numbers of a calibration with NaN or infinity."""
    return ModelError(
        "A calibration cannot be made of numbers that are not finite. None was made: load the model with "
        "dtype='float32', or check its weights."
    )


def calibration_too_few(kind: str, count: int, least: int, *, what: str = "texts") -> ModelError:
    """Too few texts, or different texts, to fit a calibration on."""
    return ModelError(
        f"The calibration {kind!r} was to be fitted on {count} {what}. Allowed: {least} or more, best some hundreds. "
        "Add texts of the kind that will be embedded; they need no labels."
    )


def calibration_leaves_nothing(kind: str) -> ModelError:
    """Texts that differ in no more directions than are removed."""
    return ModelError(
        f"The calibration {kind!r} removes all directions in which the texts differ, so that nothing of them would be "
        "left. Choose a smaller number, or add texts that differ in more ways."
    )


def calibration_texts(value: object) -> TextError:
    """What is no collection of texts, given to fit a calibration on."""
    return TextError(
        f"Got texts = {quoted(value)}, of type {type(value).__name__}. Allowed: some hundreds of str, such as a list "
        "of them. Put the texts into a list."
    )


def calibration_too_many(kind: str, width: int, most: int) -> ModelError:
    """A calibration that leaves nothing of vectors as short as these."""
    return ModelError(
        f"The calibration {kind!r} does not fit vectors with {width} dimensions. Allowed: numbers up to {most}. Choose "
        "a smaller number."
    )


def calibration_constant(kind: str, constant: int, width: int) -> ModelError:
    """Vectors with a constant dimension, which cannot be divided by its deviation."""
    mean = ", or choose calibration='mean'" if constant < width else ""  # which would leave only zeros
    return ModelError(
        f"The calibration {kind!r} found {constant} of {width} dimensions in which all texts have the same number. "
        f"Add texts that differ{mean}."
    )


def calibration_other_width(width: int, got: int) -> ModelError:
    """A calibration of another model."""
    return ModelError(
        f"The calibration was fitted on vectors with {width} dimensions, and got a vector with {got}. Both must come "
        "from the same model and recipe. Save the model that echoembed.calibrate returns."
    )


def calibration_without_head(name: str) -> ModelError:
    """A model without an unembedding."""
    return ModelError(
        f"{name} has no unembedding in its weights, which a calibration by its spectrum needs. Choose another "
        "calibration, such as 'mean', or a folder with the whole model."
    )


def model_is_sentence_transformer(name: str) -> ModelError:
    """A model with a pipeline of its own."""
    return ModelError(
        f"{name} is a sentence-transformers model with modules of its own. Load it with "
        "sentence_transformers.SentenceTransformer, or say which recipe to read it with: load(..., recipe='...')."
    )


def model_module_refused(name: str, module: str) -> ModelError:
    """A saved model with a module from elsewhere."""
    return ModelError(
        f"{name} holds a module of type {quoted(module, 80)}. Allowed: echoembed's and sentence-transformers' own. "
        "Code from elsewhere is not run: remove the module from modules.json, or load it with the library it is from."
    )


def model_saved_unreadable(name: str, reason: str) -> ModelError:
    """A saved model whose own description is broken."""
    return ModelError(
        f"{name} has an unreadable {reason}. It must be as echoembed.save wrote it: save the model again."
    )


def model_adapter_unusable(name: str, adapter: str, reason: str) -> ModelError:
    """An adapter that cannot become part of a model's weights."""
    return ModelError(
        f"The adapter {adapter} does not fit {name}: {quoted(reason, 200)}. Allowed: adapters that become part of the "
        "weights of the model they were trained on. Merge it with the peft that made it and load the merged model, or "
        "choose another adapter if that peft cannot merge it either."
    )


def adapter_merged_already(key: str) -> ModelError:
    """A checkpoint of merged weights, from which an adapter cannot resume its training."""
    return ModelError(
        f"The checkpoint has merged weights and no {quoted(key, 100)}: the adapter in training cannot be told from it. "
        "Choose a checkpoint that was saved while this adapter was trained, with the same layers and rank."
    )


def model_adapter_vocabulary(name: str, adapter: str, wanted: int, known: int) -> ModelError:
    """An adapter of a model with other tokens."""
    return ModelError(
        f"The adapter {adapter} was trained with {wanted} tokens, and {name} has {known}. The others are in the "
        "tokenizer it was trained with: resize and merge with peft, save model and tokenizer, and load that folder."
    )


def model_not_trainable(recipe: str) -> ModelError:
    """Training under a recipe that needs more than one prompt, or prompts beside their padded ids."""
    allowed = "one with a single prompt for training, without hindsight and without weights of tokens or attention"
    return ModelError.bad_value("recipe", recipe, allowed)


def model_without_hindsight(name: str, field: str, value: str) -> ModelError:
    """A model whose attention cannot be changed or read."""
    return ModelError(
        f"{name} computes its attention in a way of its own, which {field} = {value!r} cannot change or read. Allowed "
        "for it: hindsight 'none' or 'slot-A-B', and any other pooling. Choose another recipe, or another model."
    )


def model_engine_unsupported(name: str, reason: str) -> ModelError:
    """A model that the requested packed engine cannot run."""
    return ModelError(
        f"{name} cannot run on the packed engine: {reason}. Allowed for it: engine=None or engine='padded', "
        "without deterministic=True. Leave the argument out."
    )
