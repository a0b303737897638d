"""Where the parts meet: a language model and a recipe become a ``SentenceTransformer``.

``EchoTransformer`` is the first module of the pipeline. It renders texts by the recipe's templates, runs
the model and hands on the pooled states only; the library's own pooling and normalising follow, so that
everything that takes a ``SentenceTransformer`` takes the result.

Shapes: B texts in a batch, T tokens of the longest prompt, S tokens of the longest span, D width of the model.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.util import batch_to_device
from transformers import PreTrainedConfig

from echoembed import errors, versions
from echoembed.engine import PackedEngine, Selector, gradients, quantize
from echoembed.engine.gradients import TrainingEngine
from echoembed.model import backbone, live
from echoembed.model.adapters import merge_adapters
from echoembed.model.groups import PACKS, pool_in_groups
from echoembed.model.pooling import are_padded, check_states, gather_spans, given, keep_layers, pad, pool_each, unpad
from echoembed.model.probes import PROBE_TEXTS
from echoembed.model.running import Running
from echoembed.model.saved import CONFIG, read_first
from echoembed.model.trust import nothing_asked
from echoembed.model.weights import sketch, to_save
from echoembed.model.zeros import guard_caller
from echoembed.prompts.pieces import PieceTokenizer, no_panic
from echoembed.prompts.reader import Overflow
from echoembed.prompts.template import Rendered
from echoembed.recipe import Kind, Recipe
from echoembed.sources.adapters import Base
from echoembed.sources.files import ADAPTER_CONFIG
from echoembed.sources.resolve import Source, joint_revision, resolve


class EchoTransformer(Transformer):
    """A language model that reads texts as a recipe says and gives the states that are pooled.

    Args:
        folder: Folder with configuration, tokenizer and safetensors weights (see ``sources.resolve``).
        recipe: The recipe, or its fields as a saved model holds them.
        name: What the model is called in errors and reports.
        revision: 40 hexadecimal digits that name these weights.
        running: Dtype, engine and what else moves no more than the last digits of a vector.
        cut: Whether the folder holds a model that was cut at the recipe's layer already.
        adapters: Folders of adapters to merge into the weights, in order.
        base: The exact weights, as ``echoembed.load`` found them; None where the library loads the model.
        adapter: Name of the trained adapter that the caller named, or nothing.

    Attributes:
        reader: Renders texts by the recipe's templates, under the context in force.
        selector: Says which forward runs, and why.

    Raises:
        ModelError: If the model cannot be loaded, or a probe shows that it does not do what the recipe says.
        TemplateError: If the recipe's templates do not fit the tokenizer.
    """

    __module__ = "echoembed.model"  # saved models name the class by this path, which must keep working
    config_file_name = CONFIG
    config_keys: list[str] = ["recipe_fields", "name", "cut"]  # noqa: RUF012 (as the base class declares it)
    forward_kwargs: set[str] = {"texts_a_forward"}  # noqa: RUF012 (what ``encode`` may be given for this module)
    # Not in the root: a loader that ignores modules.json would find the plain model and serve other vectors.
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
        adapters: Sequence[Path] = (),
        base: Base | None = None,
        adapter: str = "",
    ) -> None:
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe(**recipe)
        self.name = name
        self.revision = revision
        # The base class's constructor loads through the hooks below, which need these.
        self.weights_folder = Path(folder)
        self.running = running or Running()
        self._cut, self._adapters = cut, tuple(adapters)
        try:
            with nothing_asked(), no_panic():
                super().__init__(
                    str(folder),
                    # An empty configuration: under the model's own it would look for a processor of pictures.
                    processor_kwargs={"trust_remote_code": False, "config": PreTrainedConfig()},
                    # Pinned to text: the inputs of instruct models would otherwise be wrapped in their chat format.
                    modality_config={"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
                    module_output_name="token_embeddings",
                )
        except errors.EchoembedError:
            raise
        except Exception as error:  # whatever a broken tokenizer makes transformers raise
            raise errors.model_unreadable(name, str(error)) from error
        layers = int(self.model.config.num_hidden_layers)
        self.layers = layers if cut else backbone.cut_at_layer(self.model, name, self.recipe.layer_of(layers))
        self.cut = cut or self.layers < layers
        backbone.check_attention(self.model, name, self.recipe.attention)

        assert self.tokenizer is not None  # every text model has one
        self.pieces = PieceTokenizer(self.tokenizer)
        self.context = self._own_context()
        self._most: int | None = None
        self.sketch = sketch(self.model)
        embeddings: Any = self.model.get_input_embeddings()
        pad, known = self.tokenizer.pad_token_id, len(embeddings.weight)
        # Masked wherever it stands; a padding token added to the tokenizer alone has no embedding.
        self.pad_id: int = pad if pad is not None and pad < known else self.pieces.eos or 0
        self.reader = self.recipe.reader(self.pieces, context=self.context, overflow=self.running.overflow)
        self.base = base
        self.adapter = adapter
        self.selector = Selector(
            name=self.name,
            causal=self.recipe.attention == "causal",
            context=self.context,
            wanted=self.running.engine,
            deterministic=self.running.deterministic,
            tokens=self.running.pack_tokens,
        )
        self.register_load_state_dict_pre_hook(live.receive)  # type: ignore[no-untyped-call]
        if self.running.int8:
            self.to_int8()
        probe = replace(self.reader, overflow="ignore")
        for kind in get_args(Kind):
            backbone.check_special_tokens(probe.render(["a b"], task=kind)[0], self.recipe.template(kind), self.pieces)

    @property
    def max_seq_length(self) -> int | None:
        """Most tokens of a whole prompt; setting it lowers what is read of long texts, never above the model's own."""
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
        """What becomes of a text over the budget; chosen when the model is loaded."""
        return self.reader.overflow

    def under(self, recipe: Recipe, *, overflow: Overflow | None = None) -> EchoTransformer:
        """The same weights under another recipe of the same attention and layer; this module stays as it is.

        Args:
            recipe: The other recipe.
            overflow: What becomes of a text over its budget; None for what this module does.
        """
        other = copy.copy(self)
        other.recipe = recipe
        other.reader = recipe.reader(self.pieces, context=self.context, overflow=overflow or self.reader.overflow)
        return other

    def _own_context(self) -> int | None:
        assert self.tokenizer is not None  # every text model has one
        copies = max(self.recipe.template(kind).copies for kind in get_args(Kind))
        return backbone.context_length(self.model, self.tokenizer.model_max_length, copies=copies)

    # What the base class calls to load: the model as the recipe wants it, and nothing that runs foreign code.

    def _load_config(self, *_: object, **__: object) -> tuple[Any, bool]:
        return backbone.read_config(self.weights_folder, self.name, self.recipe.attention), False

    def _load_model(self, _path: str, _task: str, config: Any, *_: object, **__: object) -> Any:  # type: ignore[override]
        if (self.weights_folder / ADAPTER_CONFIG).is_file():  # transformers adds it, or ignores it without peft
            versions.check("peft", extra="peft", purpose=f"Loading the adapter in {self.name}")
        model = backbone.load_model(self.weights_folder, self.name, config, self.running.dtype, cut=self._cut)
        return merge_adapters(model, self.name, self._adapters)

    @property
    def int8(self) -> bool:
        """Whether the linear layers are in eight bits."""
        return self.running.int8

    def to_int8(self) -> None:
        """Put the linear layers into eight bits, in place.

        Raises:
            ModelError: If there are none.
        """
        self.selector.choice(self.model)  # its proof is exact in floating point only
        probes = replace(self.reader, overflow="ignore").render(PROBE_TEXTS)
        if not quantize(self.model, probes):
            raise errors.ModelError.bad_value(
                "dtype", "int8", "float32 or bfloat16 for this model: no layer is an nn.Linear"
            )
        self.selector.retest_invariance(self.model)

    # The library's interface.

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
            prompt: The instruction; the recipe's own where it is None or empty.
            processing_kwargs: Refused: it would change the prompt behind the recipe's back.
            task: ``query`` or ``document``; None means the query template.
            texts_a_forward: As for ``forward``.
            _: Ignored; what the library passes to modules of other kinds.

        Returns:
            ``input_ids``, ``attention_mask`` and ``span_mask``, each ``_BT`` and int64, and ``dropped_B``, tokens
            cut from each text; in inference mode ``prompts`` without padding, with ``texts_a_forward`` these alone.

        Raises:
            TextError: If a text cannot be embedded, the task is unknown, or an instruction has no place.
            ModelError: If ``processing_kwargs`` are given.
        """
        if processing_kwargs:
            raise errors.ModelError.bad_value("processing_kwargs", processing_kwargs, "None; recipes say what is read")
        guard_caller(self)
        prompts = self.reader.render(inputs, task=task, instruction=prompt)
        self.reader.warn_of_cuts(prompts)
        return self.features(prompts, padded=texts_a_forward is None)

    def features(self, prompts: Sequence[Rendered], *, padded: bool = True) -> dict[str, Any]:
        """What ``forward`` takes: the prompts as padded tensors, as ``preprocess`` gives them, or the prompts alone.

        Raises:
            ModelError: If the tokenizer knows a token that the model has no embedding for.
        """
        embeddings: Any = self.model.get_input_embeddings()
        if (largest := max(max(prompt.ids) for prompt in prompts)) >= len(embeddings.weight):
            raise errors.model_token_unknown(self.name, largest, len(embeddings.weight))
        if not padded:
            return {"prompts": list(prompts), "dropped": torch.tensor([prompt.dropped for prompt in prompts])}
        features: dict[str, Any] = pad(prompts, self.pad_id)
        if torch.is_inference_mode_enabled():  # the library goes straight on to ``forward``; in training it slices
            features["prompts"] = list(prompts)
        return features

    def forward(self, features: dict[str, Any], *, texts_a_forward: int | None = None, **_: object) -> dict[str, Any]:
        """Run the model and hand on the pooled states.

        Args:
            features: ``input_ids``, ``attention_mask``, ``span_mask`` (``_BT``), or ``prompts``, or both; left as is.
            texts_a_forward: Most prompts of a padded forward; given for vectors only (S is 1), of however many.
            _: Ignored; the library passes further arguments to other modules' forwards.

        Returns:
            The features, with ``token_embeddings`` (``_BSD``, float32) and their ``attention_mask`` (``_BS``). Where
            vectors must be deterministic they are pooled already: S is 1.

        Raises:
            ModelError: If a state is not finite (checked outside training).
        """
        if self.training and self.int8:
            raise errors.ModelError.bad_value("dtype", "int8", "float32, bfloat16 or float16 for training")
        caller, features = features, dict(features)
        prompts = features.pop("prompts", None)
        outside_training = not (self.training or torch.is_grad_enabled())
        own = self.selector.choice(self.model).engine if outside_training else None
        # 1. Vectors only: prompts of any number, a group at a time, each by the steps that follow.
        if texts_a_forward is not None and "input_ids" not in features:
            tokens = None if own is None else PACKS * own.most_tokens(self.model)
            return features | pool_in_groups(self, prompts, tokens=tokens, most=texts_a_forward)
        # 2. In training without an engine of its own, and where the model did not pass a proof: the padded forward.
        engine: PackedEngine | TrainingEngine | None = own if outside_training else gradients.in_use(self.model)
        if engine is None and "input_ids" not in features:
            features |= batch_to_device(pad(prompts, self.pad_id), self.model.device)
        ids_BT, mask_BT, span_BT = given(features)
        if engine is None:
            output = self.model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False)
            states_BSD, mask_BS = gather_spans(output.last_hidden_state, span_BT)
            if output.get("hidden_states") is not None:
                features |= keep_layers(caller, output.hidden_states, mask_BT, span_BT)
        # 3. Else the engine, which takes prompts as the reader made them.
        else:
            if ids_BT is not None and (prompts is None or not are_padded(prompts, ids_BT, mask_BT, span_BT)):
                prompts = unpad(ids_BT, mask_BT, span_BT)
            states_BSD, mask_BS = engine.states(self.model, prompts)
        # 4. Sums over a padded dimension are grouped by its length: for equal bits each text is pooled by itself.
        if outside_training and engine is not None and self.selector.deterministic:
            states_BSD, mask_BS = pool_each(states_BSD, mask_BS, self.recipe.pooling), mask_BS[:, :1]
        if not self.training:
            check_states(states_BSD, self.name)
        return {**features, "token_embeddings": states_BSD, "attention_mask": mask_BS}

    # Saving and loading.

    @property
    def recipe_fields(self) -> dict[str, Any]:
        """The recipe as a saved model holds it."""
        return self.recipe.as_dict()

    def save(self, output_path: str, *args: object, safe_serialization: bool = True, **kwargs: object) -> None:
        """Write weights (adapters merged in), tokenizer and recipe; what the library calls to save the module.

        Raises:
            ModelError: If the model is in eight bits, of which no exact weights are left.
        """
        if self.int8:
            raise errors.ModelError.bad_value("dtype", "int8", "float32, bfloat16 or float16 for saving")
        to_save(self.model).save_pretrained(output_path)
        live.write(self.model, Path(output_path))
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)

    def get_config_dict(self) -> dict[str, Any]:
        """What is saved beside the weights."""
        set_by_user = {} if self._most is None else {"max_seq_length": self._most}
        return {key: getattr(self, key) for key in self.config_keys} | set_by_user

    @classmethod
    def load(  # type: ignore[override]
        cls, model_name_or_path: str, subfolder: str = "", revision: str | None = None, **kwargs: Any
    ) -> EchoTransformer:
        """Load the module of a saved model; called by the library, and by ``echoembed.load``.

        Settings that would loosen what is loaded (remote code, other backends) are not taken over.
        """
        local = bool(kwargs.get("local_files_only", False))
        source = resolve(model_name_or_path, revision=revision, local_files_only=local)
        dtype = (kwargs.get("model_kwargs") or {}).get("dtype", torch.float32)
        return live.carry(cls.from_saved(source, subfolder, running=Running(dtype=dtype)), source.folder / subfolder)

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
        """The module of a saved model.

        Args:
            source: The saved model.
            subfolder: Where in it the module is.
            recipe: Another recipe than was saved; None for that one.
            running: As for the class.
            adapters: Adapters to merge into the weights, in order.
            base: As for the class.
            adapter: As for the class.

        Raises:
            ModelError: If what was saved cannot be read, or has no layer that the recipe names.
        """
        saved = read_first(source, subfolder)
        module = cls(
            source.folder / subfolder,
            recipe=recipe or saved.recipe,
            name=saved.name,
            revision=joint_revision(source, adapters),
            running=running,
            cut=saved.cut,
            adapters=[merged.folder for merged in adapters],
            base=base,
            adapter=adapter,
        )
        saved.check_layer(module.recipe, module.layers, source.name)
        if saved.max_seq_length is not None:
            module.max_seq_length = saved.max_seq_length
        return module

    def __repr__(self) -> str:
        return f"EchoTransformer(recipe={self.recipe.name!r}, model={self.name!r}, layers={self.layers})"


def transformer_of(model: SentenceTransformer) -> EchoTransformer:
    """The model's first module, if it is ours.

    Raises:
        ModelError: If the model was not loaded by ``echoembed.load``.
    """
    transformer = model[0] if isinstance(model, SentenceTransformer) and len(model) else None
    if not isinstance(transformer, EchoTransformer):
        raise errors.ModelError.bad_value("model", model, "a model from echoembed.load")
    return transformer
