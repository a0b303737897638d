"""Where the parts meet: a language model and a recipe become the first module of a ``SentenceTransformer``.

``EchoTransformer`` renders texts by the recipe's templates, runs the model, and passes on the pooled states only.
The library's own modules for pooling and normalising follow.

Shapes: B texts in a batch, T tokens of the longest prompt, S tokens of the longest span, D width of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from transformers import PreTrainedConfig

from echoembed import errors
from echoembed.engine import Choice, gradients
from echoembed.model import backbone, hindsight, live, pooling
from echoembed.model.adapters import merge_adapters
from echoembed.model.beside import beside, check_prompts, vectors_beside
from echoembed.model.conversion import converting, to_int8
from echoembed.model.forward import features_of, pooled_states
from echoembed.model.frequencies import Frequencies
from echoembed.model.groups import PACKS, pool_in_groups
from echoembed.model.library import asked
from echoembed.model.running import Running
from echoembed.model.saved import read_transformer, tokenizer_hash
from echoembed.model.trust import nothing_asked
from echoembed.model.weights import sketch, to_save
from echoembed.model.zeros import guard_caller
from echoembed.prompts.pieces import PieceTokenizer, no_panic
from echoembed.prompts.reader import TASK_MARKS, Overflow
from echoembed.prompts.template import Rendered
from echoembed.recipe import Kind, Recipe
from echoembed.sources.adapters import Base
from echoembed.sources.files import ADAPTER_CONFIG, SAVED_CONFIG
from echoembed.sources.resolve import Source, joint_revision
from echoembed.sources.settings import reason


class EchoTransformer(Transformer):
    """A language model that reads texts by a recipe and returns the states to pool.

    Args:
        folder: A folder with configuration, tokenizer and safetensors weights (see ``sources.resolve``).
        recipe: The recipe, or its fields from a saved model.
        name: What errors and reports call the model.
        revision: 40 hexadecimal digits that name these weights.
        running: Dtype, engine and other settings that are not the recipe's.
        cut: Whether the folder holds a model that is already cut at the recipe's layer.
        layers_in_all: The number of layers before the cut; None for as many as the folder holds.
        adapters: Folders of adapters to merge into the weights, in order.
        base: The exact weights, as ``echoembed.load`` found them; None if the library loads the model.
        adapter: The name of the caller's trained adapter; empty if there is none.
        frequencies: How often tokens occur, if the recipe pools by that; None to count them in the package's sentences.

    Attributes:
        reader: Renders texts by the recipe's templates, within the context.
        selector: Chooses which forward runs, and says why.
        beside: The modules that read the recipe's further prompts (see ``beside.py``).

    Raises:
        ModelError: If the model cannot be loaded, or a probe shows that it does not do what the recipe says.
        TemplateError: If the recipe's templates do not fit the tokenizer.
    """

    __module__ = "echoembed.model"  # saved models name the class by this path, which must keep working
    config_file_name = SAVED_CONFIG
    config_keys: list[str] = ["recipe_fields", "name", "cut", "layers_in_all"]  # noqa: RUF012 (as in the base class)
    forward_kwargs: set[str] = {"texts_a_forward"}  # noqa: RUF012 (what ``encode`` may pass to this module)
    # Saved in a folder below: a loader that ignores modules.json would find the plain model and give other vectors.
    save_in_root = False

    def __init__(
        self,
        folder: str | Path,
        *,
        recipe: Recipe | dict[str, Any],
        name: str,
        revision: str,
        running: Running | None = None,
        cut: bool = False,
        layers_in_all: int | None = None,
        adapters: Sequence[Path] = (),
        base: Base | None = None,
        adapter: str = "",
        frequencies: Frequencies | None = None,
    ) -> None:
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe(**recipe)
        self.name, self.revision = name, revision
        # 1. Load: the base class's constructor calls the hooks below, which need these attributes.
        self.weights_folder, self.running = Path(folder), running or Running()
        self._cut, self._adapters = cut, tuple(adapters)
        try:
            with nothing_asked(), no_panic():
                super().__init__(
                    str(folder),
                    # An empty configuration: with the model's own, transformers would look for an image processor.
                    processor_kwargs={"trust_remote_code": False, "config": PreTrainedConfig()},
                    # Pinned to text: otherwise the inputs of instruct models would be wrapped in their chat template.
                    modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
                    module_output_name="token_embeddings",
                )
        except errors.EchoembedError:
            raise
        except Exception as error:  # a broken tokenizer can make transformers raise anything
            raise errors.model_unreadable(name, reason(error)) from error
        # 2. Cut the model at the recipe's layer, and check its attention.
        layers = int(self.model.config.num_hidden_layers)
        self.layers_in_all = layers_in_all or layers
        self.layers = layers if cut else backbone.cut_at_layer(self.model, name, self.recipe.layer_of(layers))
        self.cut = cut or self.layers < layers
        backbone.check_attention(self.model, name, self.recipe.attention)
        # 3. Make the reader, which turns texts into prompts within the context.
        assert self.tokenizer is not None  # every text model has one
        self.pieces = PieceTokenizer(self.tokenizer)
        self.context = self._own_context()
        self._most: int | None = None
        self.sketch = sketch(self.model)
        self.pad_id = pooling.pad_id_of(self.model, self.tokenizer.pad_token_id, self.pieces)
        self.reader = self.recipe.reader(self.pieces, context=self.context, overflow=self.running.overflow or "warn")
        # 4. Choose the forward, load what stands beside the first prompt, and check the special tokens.
        self.base, self.adapter = base, adapter
        self.frequencies = frequencies or Frequencies.needed_by(self.recipe, self.pieces, self.context)
        self.selector = self.running.selector(self.name, self.recipe.attention, self.context)
        self.register_load_state_dict_pre_hook(live.receive)  # type: ignore[no-untyped-call]
        self.beside = beside(self)
        hindsight.check(self)
        if self.running.int8:
            self.to_int8()
        backbone.check_special_tokens(self.recipe, self.reader, self.pieces)

    @property
    def max_seq_length(self) -> int | None:
        """The most tokens of a whole prompt; a lower value cuts long texts earlier, a higher value has no effect."""
        return self.context

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if value is not None and (type(value) is not int or value < 1):
            raise errors.ModelError.bad_value("max_seq_length", value, "a whole number of tokens above 0, or None")
        self._most = value
        self.context = min((limit for limit in (self._own_context(), value) if limit is not None), default=None)
        self.reader = self.recipe.reader(self.pieces, context=self.context, overflow=self.reader.overflow)

    @property
    def overflow(self) -> Overflow:
        """What to do with a text over the budget; chosen when the model is loaded."""
        return self.reader.overflow

    def choice(self) -> Choice:
        """Return the forward that runs outside training, and why."""
        return Choice(None, hindsight.REASON) if self.recipe.looks_back else self.selector.choice(self.model)

    def under(
        self, recipe: Recipe, *, overflow: Overflow | None = None, frequencies: Frequencies | None = None
    ) -> EchoTransformer:
        """Return the same weights under another recipe with the same attention and layer; this module does not change.

        Args:
            recipe: The other recipe.
            overflow: What to do with a text over the budget; None for the same as this module.
            frequencies: How often tokens occur; None for those of this module, or of the package's sentences.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.recipe = recipe
        other.reader = recipe.reader(self.pieces, context=self.context, overflow=overflow or self.reader.overflow)
        other.frequencies = frequencies or self.frequencies or Frequencies.needed_by(recipe, self.pieces, self.context)
        check_prompts(other)
        same = recipe.beside == self.recipe.beside and not overflow and other.frequencies is self.frequencies
        other.beside = self.beside if same else beside(other)
        hindsight.check(other)
        return other

    def _own_context(self) -> int | None:
        assert self.tokenizer is not None  # every text model has one
        copies = max(prompt.template(kind).copies for prompt in self.recipe.prompts for kind in get_args(Kind))
        return backbone.context_length(self.model, self.tokenizer.model_max_length, copies=copies)

    # Hooks that the base class calls to load: they set the recipe's attention, and run no code of the folder.

    def _load_config(self, *_: object, **__: object) -> tuple[Any, bool]:
        return backbone.read_config(self.weights_folder, self.name, self.recipe.attention), False

    def _load_model(self, _path: str, _task: str, config: Any, *_: object, **__: object) -> Any:  # type: ignore[override]
        included = [self.weights_folder] if (self.weights_folder / ADAPTER_CONFIG).is_file() else []
        model = backbone.load_model(self.weights_folder, self.name, config, self.running.dtype, cut=self._cut)
        return merge_adapters(model, self.name, [*included, *self._adapters])

    @property
    def int8(self) -> bool:
        """Whether the linear layers are in int8."""
        return self.running.int8

    def to_int8(self) -> None:
        """Put the linear layers into int8, in place.

        Raises:
            ModelError: If there are no linear layers.
        """
        to_int8(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EchoTransformer:
        """Move to another device, or convert to another dtype as loading in that dtype does."""
        super()._apply(converting(self, fn), recurse)  # type: ignore[no-untyped-call]
        return self

    # The library's interface.

    def on_model_ready(self, model: Any) -> None:
        """Let ``query``, ``text`` and the like keep their meaning where a tool loads the model with empty prompts."""
        model.prompts |= {name: mark for name, mark in TASK_MARKS.items() if model.prompts.get(name) == ""}

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Any = None,
        task: str | None = None,
        texts_a_forward: int | None = None,
        **_: object,
    ) -> dict[str, Any]:
        """Render texts into padded ids.

        Args:
            inputs: B texts.
            prompt: The instruction; None or empty for the recipe's own.
            processing_kwargs: Refused, as these arguments would change prompts against the recipe.
            task: ``query`` or ``document``; None means the query template.
            texts_a_forward: As for ``forward``.
            _: Ignored arguments, which the library passes to modules of other kinds.

        Returns:
            ``input_ids``, ``attention_mask`` and ``span_mask``, each ``_BT`` and int64, and ``dropped``, ``_B``, the
            number of tokens cut from each text. In inference mode also ``prompts`` without padding; with
            ``texts_a_forward`` only ``prompts`` and ``dropped``.

        Raises:
            TextError: If a text cannot be embedded, the task is unknown, or the template takes no instruction.
            ModelError: If ``processing_kwargs`` are given.
        """
        if processing_kwargs:
            raise errors.ModelError.bad_value("processing_kwargs", processing_kwargs, "None; recipes say what is read")
        if self.training and torch.is_grad_enabled() and self.recipe.needs_prompts:
            raise errors.model_not_trainable(self.recipe.name)
        guard_caller(self)
        prompts = self.reader.render(inputs, task=task, instruction=prompt)
        self.reader.warn_of_cuts(prompts)
        return self.features(prompts, padded=texts_a_forward is None)

    def features(self, prompts: Sequence[Rendered], *, padded: bool = True) -> dict[str, Any]:
        """Make the features for ``forward``: the prompts as padded tensors, or only as prompts.

        Raises:
            ModelError: If a token has no embedding in the model.
        """
        return features_of(self, prompts, padded=padded)

    def forward(self, features: dict[str, Any], *, texts_a_forward: int | None = None, **_: object) -> dict[str, Any]:
        """Run the model and return the pooled states.

        Args:
            features: ``input_ids``, ``attention_mask``, ``span_mask`` (``_BT``), or ``prompts``, or both; not changed.
            texts_a_forward: The most prompts of a padded forward. If given, the states of all prompts come pooled.
            _: Ignored arguments, which the library passes to other modules' forwards.

        Returns:
            The features, with ``token_embeddings`` (``_BSD``, float32) and their ``attention_mask`` (``_BS``). For
            deterministic vectors the states are already pooled: S is 1.

        Raises:
            ModelError: If a state is not finite (checked outside training).
        """
        if self.training and self.int8:
            raise errors.ModelError.bad_value("dtype", "int8", "float32, bfloat16 or float16 for training")
        caller, features = features, dict(features)
        prompts = features.pop("prompts", None)
        outside_training = not (self.training or torch.is_grad_enabled())
        packed = self.choice().engine if outside_training else None
        # 1. If only vectors are needed: pool any number of prompts, a group at a time, each group by steps 2 to 4.
        if texts_a_forward is not None and "input_ids" not in features:
            tokens = None if packed is None else PACKS * packed.most_tokens(self.model)
            return features | pool_in_groups(self, prompts, tokens=tokens, most=texts_a_forward)
        # 2. One forward: by the engine, or padded.
        engine = packed if outside_training else gradients.in_use(self.model)
        states_BSD, mask_BS = pooled_states(self, features, prompts, engine, caller)
        # 3. For deterministic vectors, pool each text by itself: the order of padded sums depends on their length.
        if outside_training and engine is not None and self.selector.deterministic:
            states_BSD, mask_BS = pooling.pool_each(states_BSD, mask_BS, self.recipe.pooling), mask_BS[:, :1]
        if not self.training:
            pooling.check_states(states_BSD, self.name)
        features |= vectors_beside(self, prompts)
        return {**features, "token_embeddings": states_BSD, "attention_mask": mask_BS}

    # Saving and loading.

    @property
    def recipe_fields(self) -> dict[str, Any]:
        """The recipe's fields, as they are saved with the model."""
        return self.recipe.as_dict()

    def save(self, output_path: str, *args: object, safe_serialization: bool = True, **kwargs: object) -> None:
        """Write weights (adapters merged), tokenizer and recipe; the library calls this method to save the module.

        Raises:
            ModelError: If the model is in int8, as its exact weights are gone.
        """
        if self.int8:
            raise errors.ModelError.bad_value("dtype", "int8", "float32, bfloat16 or float16 for saving")
        to_save(self.model).save_pretrained(output_path)
        live.write(self.model, Path(output_path))
        if self.frequencies is not None and self.recipe.counts_tokens:
            self.frequencies.save(Path(output_path))
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings that are saved beside the weights."""
        overflow = self.overflow if self.overflow == "error" else None
        known = {"max_seq_length": self._most, "overflow": overflow, "tokenizer": tokenizer_hash(self.pieces)}
        return {key: getattr(self, key) for key in self.config_keys} | {k: v for k, v in known.items() if v}

    @classmethod
    def load(  # type: ignore[override]
        cls, model_name_or_path: str, subfolder: str = "", revision: str | None = None, **kwargs: Any
    ) -> EchoTransformer:
        """Load the module of a saved model; the library calls this method.

        No code of a folder runs here, whatever the caller trusts. See ``library.py`` for the other arguments.
        """
        source, running = asked(model_name_or_path, revision, kwargs)
        return live.carry(cls.from_saved(source, subfolder, running=running), source.folder / subfolder)

    @classmethod
    def from_saved(
        cls,
        source: Source,
        subfolder: str,
        *,
        recipe: Recipe | None = None,
        running: Running | None = None,
        adapters: Sequence[Source] = (),
        base: Base | None = None,
        adapter: str = "",
    ) -> EchoTransformer:
        """Load the module of a saved model, under the saved recipe or another.

        Args:
            source: The saved model.
            subfolder: The module's folder in the model's.
            recipe: Another recipe; None for the saved one.
            running: As for the class.
            adapters: Adapters to merge into the weights, in order.
            base: As for the class.
            adapter: As for the class.

        Raises:
            ModelError: If the module cannot be read, or has no layer that the recipe names.
        """
        saved = read_transformer(source, subfolder)
        module = cls(
            source.folder / subfolder,
            recipe=recipe or saved.recipe,
            name=saved.name,
            revision=joint_revision(source, adapters),
            running=saved.running(running),
            cut=saved.cut,
            layers_in_all=saved.layers_in_all,
            adapters=[merged.folder for merged in adapters],
            base=base,
            adapter=adapter,
            frequencies=Frequencies.read(source.folder / subfolder, source.name, needed=saved.recipe.counts_tokens),
        )
        saved.check(module.recipe, module.layers, module.pieces, source.name)
        if saved.max_seq_length is not None:
            module.max_seq_length = saved.max_seq_length
        return module

    def __repr__(self) -> str:
        return f"EchoTransformer(recipe={self.recipe.name!r}, model={self.name!r}, layers={self.layers})"


def transformer_of(model: SentenceTransformer) -> EchoTransformer:
    """Return the model's first module, an ``EchoTransformer``.

    Raises:
        ModelError: If the model was not loaded by ``echoembed.load``.
    """
    transformer = model[0] if isinstance(model, SentenceTransformer) and len(model) else None
    if not isinstance(transformer, EchoTransformer):
        raise errors.ModelError.bad_value("model", model, "a model from echoembed.load")
    return transformer
