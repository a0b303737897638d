"""Where the parts meet: a language model and a recipe become a ``SentenceTransformer``.

``EchoTransformer`` is the first module of the pipeline. It renders texts by the recipe's templates, runs
the model and hands on the pooled states only; the library's own pooling and normalising follow, so that
everything that takes a ``SentenceTransformer`` takes the result.

Shapes: B texts in a batch, T tokens of the longest prompt, S tokens of the longest span, D width of the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from transformers import PreTrainedConfig

from echoembed import errors
from echoembed.engine import Engine, Selector, quantize
from echoembed.model import backbone
from echoembed.model.pooling import gather_spans, pool_each, span_mask
from echoembed.model.trust import nothing_asked
from echoembed.model.weights import sketch, to_save
from echoembed.prompts.pieces import PieceTokenizer, no_panic
from echoembed.prompts.template import Rendered, Renderer
from echoembed.prompts.text import check_text
from echoembed.recipe import Kind, Recipe, prepare
from echoembed.sources.adapters import Base
from echoembed.sources.resolve import resolve

Overflow = Literal["warn", "error", "ignore"]


class TruncationWarning(UserWarning):
    """Texts were longer than the budget and were cut."""


class EchoTransformer(Transformer):
    """A language model that reads texts as a recipe says and gives the states that are pooled.

    Args:
        folder: Folder with configuration, tokenizer and safetensors weights (see ``sources.resolve``).
        recipe: The recipe, or its fields as a saved model holds them.
        name: What the model is called in errors and reports.
        revision: 40 hexadecimal digits that name these weights.
        dtype: Type of the weights in memory.
        cut: Whether the folder holds a model that was cut at the recipe's layer already.
        adapters: Folders of adapters to merge into the weights, in order.

    Attributes:
        overflow: What happens to a text over the budget: ``warn`` (cut it and say so), ``error``, ``ignore``.
        dropped_texts: Texts cut since the counter was last set to 0.
        dropped_tokens: Tokens of text cut off since then, counted once per text.
        base: The exact weights, as ``echoembed.load`` found them; None where the library loaded the model.
        adapter: Name of the trained adapter that was asked for, or nothing.

    Raises:
        ModelError: If the model cannot be loaded, or a probe shows that it does not do what the recipe says.
        TemplateError: If the recipe's templates do not fit the tokenizer.
    """

    __module__ = "echoembed.model"  # saved models name the class by this path, which must keep working
    config_file_name = "echoembed_config.json"
    config_keys: list[str] = ["recipe_fields", "name", "cut"]  # noqa: RUF012 (as the base class declares it)
    # Not in the root: a loader that ignores modules.json would find the plain model and serve other vectors.
    save_in_root = False

    def __init__(
        self,
        folder: str | Path,
        *,
        recipe: Recipe | dict[str, Any],
        name: str,
        revision: str,
        dtype: torch.dtype = torch.float32,
        cut: bool = False,
        adapters: Sequence[Path] = (),
    ) -> None:
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe(**recipe)
        self.name = name
        self.revision = revision
        self._wanted = (Path(folder), dtype, cut, tuple(adapters))
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
        self.layers = layers if cut else backbone.cut_at_layer(self.model, name, self.recipe.layer)
        self.cut = cut or self.layers < layers
        backbone.check_attention(self.model, name, self.recipe.attention)

        assert self.tokenizer is not None  # every text model has one
        self.pieces = PieceTokenizer(self.tokenizer)
        self.context = self._own_context()
        self.sketch = sketch(self.model)
        embeddings: Any = self.model.get_input_embeddings()
        pad, known = self.tokenizer.pad_token_id, len(embeddings.weight)
        # Masked wherever it stands; a padding token added to the tokenizer alone has no embedding.
        self.pad_id: int = pad if pad is not None and pad < known else self.pieces.eos or 0
        self.overflow: Overflow = "warn"
        self.dropped_texts = 0
        self.dropped_tokens = 0
        self.renderers = self.recipe_renderers()
        self.int8 = False
        self.base: Base | None = None
        self.adapter = ""
        self._shared: dict[tuple[Kind, str], int] = {}
        self.select_engine()
        for kind, renderer in self.renderers.items():
            self._check_special_tokens(renderer.render(["a b"], self.recipe.instruction)[0], kind)

    def recipe_renderers(self) -> dict[Kind, Renderer]:
        """What renders texts by the recipe's templates, under the context in force."""
        return {
            kind: Renderer(
                self.recipe.template(kind),
                self.pieces,
                budget=self.recipe.budget,
                context=self.context,
                prepare=partial(prepare, preparation=self.recipe.preparation),
            )
            for kind in get_args(Kind)
        }

    @property
    def max_seq_length(self) -> int | None:
        """Most tokens of a whole prompt; setting it lowers what is read of long texts, never above the model's own."""
        return self.context

    @max_seq_length.setter
    def max_seq_length(self, value: int | None) -> None:
        if value is not None and (type(value) is not int or value < 1):
            raise errors.model_bad_option("max_seq_length", value, "a whole number of tokens above 0, or None")
        self.context = min((limit for limit in (self._own_context(), value) if limit is not None), default=None)
        self.renderers = self.recipe_renderers()

    @property
    def weights_folder(self) -> Path:
        """The folder with the safetensors that were loaded."""
        return self._wanted[0]

    def _own_context(self) -> int | None:
        assert self.tokenizer is not None  # every text model has one
        copies = max(self.recipe.template(kind).copies for kind in get_args(Kind))
        return backbone.context_length(self.model, self.tokenizer.model_max_length, copies=copies)

    # What the base class calls to load: the model as the recipe wants it, and nothing that runs foreign code.

    def _load_config(self, *_: object, **__: object) -> tuple[Any, bool]:
        folder, *_rest = self._wanted
        return backbone.read_config(folder, self.name, self.recipe.attention), False

    def _load_model(self, _path: str, _task: str, config: Any, *_: object, **__: object) -> Any:  # type: ignore[override]  # noqa: ANN401
        folder, dtype, cut, adapters = self._wanted
        model = backbone.load_model(folder, self.name, config, dtype, cut=cut)
        return backbone.merge_adapters(model, self.name, adapters)

    def _check_special_tokens(self, rendered: Rendered, kind: Kind) -> None:
        """Assert, at load, that BOS and EOS are where the template puts them and nowhere else."""
        template = self.recipe.template(kind)
        ends = {"bos": self.pieces.bos, "eos": self.pieces.eos}
        wanted = [ends[part.slot] for part in template.parts if part.slot in ends]
        found = [id_ for id_ in rendered.ids if id_ in ends.values()]
        if found != [id_ for id_ in wanted if id_ is not None]:
            raise errors.template_special_tokens(template.source, rendered.text)

    def select_engine(self, wanted: Engine | None = None, *, deterministic: bool = False) -> None:
        """Say which forward runs outside training; see ``echoembed.load``.

        Raises:
            ModelError: For an unknown engine. That the model cannot run on it is found at the first use.
        """
        if wanted not in (None, *get_args(Engine)):
            raise errors.model_bad_option("engine", wanted, f"{', '.join(get_args(Engine))}, or None")
        self.selector = Selector(
            name=self.name,
            causal=self.recipe.attention == "causal",
            context=self.context,
            wanted=wanted,
            deterministic=deterministic,
        )

    def to_int8(self) -> None:
        """Put the linear layers into eight bits, for inference on a CPU (see ``engine/int8.py``).

        Raises:
            ModelError: If the model is elsewhere, or has no linear layers.
        """
        if self.model.device.type != "cpu":
            raise errors.model_bad_option(
                "dtype", "int8", "int8 on a CPU (device='cpu'); float16 or bfloat16 elsewhere"
            )
        if not quantize(self.model):
            raise errors.model_bad_option(
                "dtype", "int8", "float32 or bfloat16 for this model: no layer is an nn.Linear"
            )
        self.int8 = True

    # The library's interface.

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        processing_kwargs: Any = None,  # noqa: ANN401
        task: str | None = None,
        **_: object,
    ) -> dict[str, Any]:
        """Render texts into padded ids.

        Args:
            inputs: B texts.
            prompt: The instruction; the recipe's own where it is None or empty.
            processing_kwargs: Refused: it would change the prompt behind the recipe's back.
            task: ``query`` or ``document``; None means the query template.
            _: Ignored; what the library passes to modules of other kinds.

        Returns:
            ``input_ids``, ``attention_mask`` and ``span_mask``, each ``_BT`` and int64; and ``shared_B``, how
            many tokens at the beginning every prompt of this template and instruction has.

        Raises:
            TextError: If a text cannot be embedded, the task is unknown, or an instruction has no place.
            ModelError: If ``processing_kwargs`` are given.
        """
        if processing_kwargs:
            raise errors.model_bad_option("processing_kwargs", processing_kwargs, "None; a recipe says what is read")
        rendered = self.render(inputs, prompt=prompt, task=task)
        self._count(rendered)
        length = max(len(one.ids) for one in rendered)
        ids_BT = torch.full((len(rendered), length), self.pad_id)
        mask_BT = torch.zeros_like(ids_BT)
        for row, one in enumerate(rendered):
            ids_BT[row, : len(one.ids)] = torch.tensor(one.ids)
            mask_BT[row, : len(one.ids)] = 1
        embeddings: Any = self.model.get_input_embeddings()
        if (largest := int(ids_BT.max())) >= len(embeddings.weight):
            raise errors.model_token_unknown(self.name, largest, len(embeddings.weight))
        spans = [one.span for one in rendered]
        return {
            "input_ids": ids_BT,
            "attention_mask": mask_BT,
            "span_mask": span_mask(spans, length),
            "shared": torch.full((len(rendered),), self._shared_tokens(prompt, task)),
        }

    def _shared_tokens(self, prompt: str | None, task: str | None) -> int:
        """How many tokens prompts with different texts begin with."""
        place = kind, instruction = self._resolved(prompt, task)
        if place not in self._shared:
            if len(self._shared) >= 1024:  # a caller with an instruction per text
                self._shared.clear()
            probes = self.renderers[kind].render(["a", "7", "The"], instruction)
            columns = zip(*(probe.ids for probe in probes), strict=False)
            self._shared[place] = next((at for at, column in enumerate(columns) if len(set(column)) > 1), 0)
        return self._shared[place]

    def forget_shared(self) -> None:
        """Have the tokens that prompts begin with found anew, as when the renderers have changed."""
        self._shared = {}

    def render(self, inputs: Sequence[Any], *, prompt: str | None = None, task: str | None = None) -> list[Rendered]:
        """Render texts, without padding; arguments and errors as ``preprocess``."""
        kind, instruction = self._resolved(prompt, task)
        renderer = self.renderers[kind]
        rendered = renderer.render([check_text(text) for text in inputs], instruction)
        if self.overflow == "error":
            for text, one in zip(inputs, rendered, strict=True):
                if one.dropped:
                    raise errors.text_over_budget(text, one.dropped, renderer.room(instruction) or 0)
        return rendered

    def _resolved(self, prompt: str | None, task: str | None) -> tuple[Kind, str]:
        """Which template, and what stands in ``{instruction}``."""
        if task is not None and task not in get_args(Kind):
            raise errors.task_unknown(task)
        kind: Kind = "document" if task == "document" else "query"
        if prompt and not self.renderers[kind].template.has("instruction"):
            raise errors.instruction_unused(self.recipe.name, kind, prompt)
        return kind, check_text(prompt, "The instruction") if prompt else self.recipe.instruction

    def _count(self, rendered: list[Rendered]) -> None:
        """Add up what was cut, and warn of it."""
        cut = [prompt.dropped for prompt in rendered if prompt.dropped]
        self.dropped_texts += len(cut)
        self.dropped_tokens += sum(cut)
        if cut and self.overflow == "warn":
            warnings.warn(
                f"{len(cut)} of {len(rendered)} texts were over the budget: {sum(cut)} of their tokens were not read "
                f"(budget {self.recipe.budget}, context {self.context}; {self.dropped_texts} texts and "
                f"{self.dropped_tokens} tokens so far). Raise the budget, or split the texts.",
                TruncationWarning,
                stacklevel=4,
            )

    def forward(self, features: dict[str, Any], **_: object) -> dict[str, Any]:
        """Run the model and hand on the pooled states.

        Args:
            features: ``input_ids``, ``attention_mask`` and ``span_mask`` (``_BT``), ``shared`` (``_B``, may be
                missing); left as they are.
            _: Ignored; the library passes further arguments to other modules' forwards.

        Returns:
            The features, with ``token_embeddings`` (``_BSD``, float32) and ``attention_mask`` (``_BS``) of
            the pooled tokens. Where vectors must be deterministic they are pooled already: S is 1.

        Raises:
            ModelError: If a state is not finite (checked outside training).
        """
        if self.training and self.int8:
            raise errors.model_bad_option("dtype", "int8", "float32, bfloat16 or float16 for training")
        batch = (features["input_ids"], features["attention_mask"], features["span_mask"])
        outside_training = not (self.training or torch.is_grad_enabled())
        engine = self.selector.choice(self.model).engine if outside_training else None
        if engine is not None:
            states_BSD, mask_BS = engine.states(self.model, *batch, features.get("shared"))
        else:
            output = self.model(input_ids=batch[0], attention_mask=batch[1], use_cache=False)
            states_BSD, mask_BS = gather_spans(output.last_hidden_state, batch[2])
        if engine is not None and self.selector.deterministic:
            states_BSD, mask_BS = pool_each(states_BSD, mask_BS, self.recipe.pooling), mask_BS[:, :1]
        if not self.training:
            self._check_finite(states_BSD)
        return {**features, "token_embeddings": states_BSD, "attention_mask": mask_BS}

    def _check_finite(self, states_BSD: Tensor) -> None:
        if not torch.isfinite(states_BSD).all():
            raise errors.model_states_not_finite(self.name)

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
            raise errors.model_bad_option("dtype", "int8", "float32, bfloat16 or float16 for saving")
        to_save(self.model).save_pretrained(output_path)
        self.processor.save_pretrained(output_path)
        self.save_config(output_path)

    def get_config_dict(self) -> dict[str, Any]:
        """What is saved beside the weights."""
        return {key: getattr(self, key) for key in self.config_keys}

    @classmethod
    def load(  # type: ignore[override]
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        revision: str | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> EchoTransformer:
        """Load the module of a saved model; called by the library, and by ``echoembed.load``.

        Settings that would loosen what is loaded (remote code, other backends) are not taken over.
        """
        from echoembed.model.load import load_module

        local = bool(kwargs.get("local_files_only", False))
        source = resolve(model_name_or_path, revision=revision, local_files_only=local)
        return load_module(source, subfolder, dtype=(kwargs.get("model_kwargs") or {}).get("dtype", torch.float32))

    def __repr__(self) -> str:
        return f"EchoTransformer(recipe={self.recipe.name!r}, model={self.name!r}, layers={self.layers})"


def transformer_of(model: SentenceTransformer) -> EchoTransformer:
    """The model's first module, if it is ours.

    Raises:
        ModelError: If the model was not loaded by ``echoembed.load``.
    """
    first = model[0] if isinstance(model, SentenceTransformer) and len(model) else None
    if not isinstance(first, EchoTransformer):
        raise errors.model_bad_option("model", model, "a model from echoembed.load")
    return first
