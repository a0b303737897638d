"""The reader: how one recipe's texts become prompts for one model.

It binds a recipe's two templates to the model's tokenizer and context. It is immutable: what it cuts comes back
with the call, and the same weights under another recipe have another reader.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from echoembed import errors
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.prompts.template import Kind, Rendered, Renderer, Template
from echoembed.prompts.text import check_text

Overflow = Literal["warn", "error", "ignore"]
TASK_MARKS = {
    "query": "{query}",
    "text": "{query}",
    "document": "{document}",
    "passage": "{document}",
    "corpus": "{document}",
}
"""Names by which tools ask for a kind of text → the instruction that stands for that kind, and fills nothing."""


class TruncationWarning(UserWarning):
    """Texts were longer than the budget and were cut."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Renders texts by a recipe's templates, under the budget and the context in force.

    Attributes:
        recipe: The recipe's name, for errors.
        renderers: The template of queries and that of documents, each bound to the tokenizer.
        instruction: What fills ``{instruction}`` where the caller gives none.
        overflow: What becomes of a text over the budget: ``error`` refuses it; otherwise it is cut, and ``warn``
            says so where vectors are made.
    """

    recipe: str
    renderers: Mapping[Kind, Renderer]
    instruction: str = ""
    overflow: Overflow = "warn"

    def __post_init__(self) -> None:
        if self.overflow not in get_args(Overflow):
            raise errors.ModelError.bad_value("overflow", self.overflow, ", ".join(get_args(Overflow)))

    @classmethod
    def of(
        cls,
        templates: Mapping[Kind, Template],
        pieces: PieceTokenizer,
        *,
        recipe: str,
        budget: int | None,
        context: int | None,
        instruction: str = "",
        prepare: Callable[[str], str] = str,
        overflow: Overflow = "warn",
    ) -> Reader:
        """Bind templates to a tokenizer.

        Args:
            templates: The parsed template of each kind of text.
            pieces: The model's tokenizer.
            recipe: The recipe's name, for errors.
            budget: Most tokens of text in each copy; None for what the context holds.
            context: Most tokens the model reads at once; None if nothing limits it.
            instruction: What fills ``{instruction}`` where the caller gives none.
            prepare: What is done to a text before it is tokenised.
            overflow: What becomes of a text over the budget.

        Raises:
            TemplateError: If a template does not fit the tokenizer.
            ModelError: For an unknown ``overflow``.
        """
        renderers: dict[Kind, Renderer] = {
            kind: Renderer(template, pieces, budget=budget, context=context, prepare=prepare)
            for kind, template in templates.items()
        }
        return cls(recipe=recipe, renderers=renderers, instruction=instruction, overflow=overflow)

    def render(
        self, texts: Sequence[Any], *, task: str | None = None, instruction: str | None = None
    ) -> list[Rendered]:
        """Turn texts into prompts, in order; ``dropped`` of each says what was cut.

        Args:
            texts: What should be texts.
            task: ``query`` or ``document``; None for the query template.
            instruction: What fills ``{instruction}``; None or nothing for the recipe's own. One of ``TASK_MARKS``
                stands for a task where none is given.

        Raises:
            TextError: If a text cannot be embedded or is over the budget where that is refused, the task is
                unknown, or an instruction has no place in the template.
        """
        renderer, wording = self._chosen(task, instruction)
        prompts = renderer.render([check_text(text) for text in texts], wording)
        if self.overflow == "error":
            for text, prompt in zip(texts, prompts, strict=True):
                if prompt.dropped:
                    raise errors.text_too_long(
                        f"The text {errors.quoted(text)}", prompt.dropped, renderer.room(wording) or 0
                    )
        return prompts

    def room(self, *, task: str | None = None, instruction: str | None = None) -> int | None:
        """Most tokens of text that each copy takes: the budget, or less where the context is full.

        Raises:
            TextError: If template and instruction leave no room for any text, or as ``render``.
        """
        renderer, wording = self._chosen(task, instruction)
        return renderer.room(wording)

    def warn_of_cuts(self, prompts: Sequence[Rendered]) -> None:
        """Warn of texts that were cut, if ``overflow`` says so."""
        cut = [prompt.dropped for prompt in prompts if prompt.dropped]
        if cut and self.overflow == "warn":
            renderer = self.renderers["query"]
            warnings.warn(
                f"{len(cut)} of {len(prompts)} texts were over the budget: {sum(cut)} of their tokens were not read "
                f"(budget {renderer.budget}, context {renderer.context}). Raise the budget, or split the texts.",
                TruncationWarning,
                stacklevel=5,
            )

    def can_read(self, text: object, *, task: str | None = None, instruction: str | None = None) -> bool:
        """Whether a text can be rendered; arguments as ``render``.

        Raises:
            TextError: If no text can be, because template and instruction leave no room for any.
        """
        self.room(task=task, instruction=instruction)
        try:
            self.render([text], task=task, instruction=instruction)
        except errors.TextError:
            return False
        return True

    def _chosen(self, task: str | None, instruction: str | None) -> tuple[Renderer, str]:
        """The template of a task, and what fills ``{instruction}`` in it."""
        if task is not None and task not in get_args(Kind):
            raise errors.task_unknown(task)
        if instruction in TASK_MARKS.values():  # a task takes precedence over a prompt's name
            task, instruction = task or str(instruction).strip("{}"), None
        kind: Kind = "document" if task == "document" else "query"
        renderer = self.renderers[kind]
        if not instruction:
            return renderer, self.instruction
        if not renderer.template.has("instruction"):
            raise errors.instruction_unused(self.recipe, kind, instruction)
        return renderer, check_text(instruction, "The instruction")
