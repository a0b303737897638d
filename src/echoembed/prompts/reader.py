"""The reader, which turns texts into prompts by one recipe and for one model.

It binds a recipe's two templates to the model's tokenizer and context. It is immutable: the number of tokens it cuts is
returned with the prompts, and the same weights under another recipe have another reader.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from echoembed import errors
from echoembed.prompts.pieces import PieceTokenizer
from echoembed.prompts.template import Kind, Rendered, Renderer, Template
from echoembed.prompts.text import check_text

Overflow = Literal["warn", "error", "ignore"]
TASK_MARKS = {
    "query": "{query}",
    "text": "{document}",
    "document": "{document}",
    "passage": "{document}",
    "corpus": "{document}",
}
"""Prompt names by which tools ask for a kind of text → a mark that selects that kind's template, and fills no slot."""


class TruncationWarning(UserWarning):
    """Warns that texts were longer than the budget and were cut."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Renders texts by a recipe's templates, within the budget and the context.

    Attributes:
        recipe: The recipe's name, for errors.
        renderers: The templates of queries and of documents, each bound to the tokenizer.
        instruction: What fills ``{instruction}`` if the caller gives no instruction.
        overflow: What to do with a text over the budget: ``error`` refuses it, ``ignore`` cuts it, ``warn`` cuts it
            and warns when vectors are computed.
        beside: The readers of the recipe's further prompts.
    """

    recipe: str
    renderers: Mapping[Kind, Renderer]
    instruction: str = ""
    overflow: Overflow = "warn"
    beside: tuple[Reader, ...] = ()

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
        beside: tuple[Reader, ...] = (),
    ) -> Reader:
        """Bind templates to a tokenizer.

        Args:
            templates: The parsed template of each kind of text.
            pieces: The model's tokenizer.
            recipe: The recipe's name, for errors.
            budget: The most tokens of text in each copy; None for as many as the context holds.
            context: The most tokens that the model reads at once; None if nothing limits them.
            instruction: What fills ``{instruction}`` if the caller gives no instruction.
            prepare: Changes a text before it is tokenised.
            overflow: What to do with a text over the budget.
            beside: The readers of the recipe's further prompts.

        Raises:
            TemplateError: If a template does not fit the tokenizer.
            ModelError: If ``overflow`` is unknown.
        """
        renderers: dict[Kind, Renderer] = {
            kind: Renderer(template, pieces, budget=budget, context=context, prepare=prepare)
            for kind, template in templates.items()
        }
        return cls(recipe=recipe, renderers=renderers, instruction=instruction, overflow=overflow, beside=beside)

    def render(
        self, texts: Sequence[Any], *, task: str | None = None, instruction: str | None = None
    ) -> list[Rendered]:
        """Turn texts into prompts, in order; each prompt's ``dropped`` counts the tokens that were cut.

        Args:
            texts: The texts, which are checked here.
            task: ``query`` or ``document``; None for the query template.
            instruction: What fills ``{instruction}``; None or empty for the recipe's own. A mark of ``TASK_MARKS``
                selects a template if no task is given.

        Raises:
            TextError: If a text cannot be embedded, or is over the budget and ``overflow`` is ``error``; if the task is
                unknown, or the template takes no instruction.
        """
        renderer, wording = self._chosen(task, instruction)
        prompts = renderer.render([check_text(text) for text in texts], wording)
        if self.overflow == "error":
            for text, prompt in zip(texts, prompts, strict=True):
                if prompt.dropped:
                    raise errors.text_too_long(
                        f"The text {errors.quoted(text)}", prompt.dropped, renderer.room(wording) or 0
                    )
        others = [other.render(texts, task=task, instruction=other._own(task, instruction)) for other in self.beside]
        for place, rest in enumerate(zip(*others, strict=True)):
            most = max((prompts[place], *rest), key=lambda prompt: prompt.dropped)
            prompts[place] = replace(prompts[place], dropped=most.dropped, room=most.room, beside=rest)
        return prompts

    def room(self, *, task: str | None = None, instruction: str | None = None) -> int | None:
        """Return the most tokens of text in each copy: the budget, or fewer if the context is full.

        Raises:
            TextError: If template and instruction leave no room for text, or as ``render``.
        """
        renderer, wording = self._chosen(task, instruction)
        rooms = [renderer.room(wording)]
        rooms += [other.room(task=task, instruction=other._own(task, instruction)) for other in self.beside]
        return min((room for room in rooms if room is not None), default=None)

    def warn_of_cuts(self, prompts: Sequence[Rendered]) -> None:
        """Warn of texts that were cut, if ``overflow`` is ``warn``."""
        cut = [prompt for prompt in prompts if prompt.dropped]
        if not cut or self.overflow != "warn":
            return
        rooms = {prompt.room for prompt in cut if prompt.room is not None}
        budgets = {renderer.budget for reader in (self, *self.beside) for renderer in reader.renderers.values()}
        remedy = "Raise the budget, or split" if rooms <= budgets else "The model's context holds no more: split"
        dropped = sum(prompt.dropped for prompt in cut)
        warnings.warn(
            f"{len(cut)} of {len(prompts)} texts were over the budget: {dropped} of their tokens were not read (of a "
            f"text, at most {max(rooms)} are read). {remedy} the texts.",
            TruncationWarning,
            stacklevel=5,
        )

    def can_read(self, text: object, *, task: str | None = None, instruction: str | None = None) -> bool:
        """Return whether a text can be rendered; arguments as for ``render``.

        Raises:
            TextError: If template and instruction leave no room for any text.
        """
        self.room(task=task, instruction=instruction)
        try:
            self.render([text], task=task, instruction=instruction)
        except errors.TextError:
            return False
        return True

    def _own(self, task: str | None, instruction: str | None) -> str | None:
        """An instruction that is meant for several prompts: kept from one that has no place for it."""
        if instruction is None or instruction in TASK_MARKS.values():
            return instruction
        kind: Kind = "document" if task == "document" else "query"
        return instruction if self.renderers[kind].template.has("instruction") else None

    def _chosen(self, task: str | None, instruction: str | None) -> tuple[Renderer, str]:
        """Return the template of a task, and what fills its ``{instruction}``."""
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
