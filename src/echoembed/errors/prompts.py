"""Templates, texts and recipes that are not valid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from echoembed.errors.base import RecipeError, TemplateError, TextError, near, quoted

# Templates


def _slot_at(source: str, slot: str, ending: str = "") -> int:
    """Return the position of the first such slot, with such an ending."""
    match = re.search(r"\{" + re.escape(slot) + ending + r"(?=[}:!])", source)
    return match.start() if match else 0


def template_unbalanced(source: str, position: int) -> TemplateError:
    """A brace without its partner."""
    return TemplateError(
        f"Template {quoted(source, 80)} has a brace without its partner at position {position}. "
        "Braces enclose slots such as {text:pool}; write {{ or }} for a brace that is meant as text."
    )


def template_unknown_slot(source: str, slot: str, known: Iterable[str]) -> TemplateError:
    """A slot that neither the grammar nor the recipe knows."""
    names = list(known)
    return TemplateError(
        f"Template {quoted(source, 80)} has an unknown slot {quoted(slot)} at position {_slot_at(source, slot)}. "
        f"Slots: {', '.join(names)}. Rename it or declare it among the recipe's markers.{near(slot, names)}"
    )


def template_bad_slot(source: str, slot: str) -> TemplateError:
    """A slot with a conversion, or a format other than ``pool``."""
    position = _slot_at(source, slot, r"(?!:pool\}|\})")
    return TemplateError(
        f"Template {quoted(source, 80)} has a slot {quoted(slot)} with an unknown ending at position {position}. "
        f"Write {{{slot}}}, or {{{slot}:pool}} where it is pooled."
    )


def template_without_text(source: str) -> TemplateError:
    """A template that never reads the text."""
    return TemplateError(
        f"Template {quoted(source, 80)} never reads the text (looked from position 0 to {len(source)}). "
        "Put {text} or {text:pool} where the text belongs."
    )


def template_pools_nothing(source: str) -> TemplateError:
    """A template without a pooled token."""
    return TemplateError(
        f"Template {quoted(source, 80)} pools nothing (looked from position 0 to {len(source)}). "
        "Mark what is pooled, for instance the last reading: {text:pool}."
    )


def template_pools_apart(source: str) -> TemplateError:
    """Pooled slots with something between them."""
    return TemplateError(
        f"Template {quoted(source, 80)} pools slots that are not neighbours (the first at position "
        f"{source.find(':pool')}). Pool one run of slots, such as {{text:pool}}{{eos:pool}}."
    )


def template_spells_special(source: str, token: str) -> TemplateError:
    """A literal that spells a special token, but would be tokenised as text."""
    return TemplateError(
        f"Template {quoted(source, 80)} spells the special token {quoted(token)} as text at position "
        f"{max(source.find(token), 0)}. Write {{bos}} or {{eos}}, or declare the token among the recipe's markers."
    )


def template_wants_token(source: str, slot: str) -> TemplateError:
    """A template with a special token that the tokenizer lacks."""
    return TemplateError(
        f"Template {quoted(source, 80)} puts {{{slot}}} at position {_slot_at(source, slot)}, but this "
        f"tokenizer has no such token. Choose a recipe without {{{slot}}}, or set the token in tokenizer_config.json."
    )


def template_special_tokens(source: str, rendered: str) -> TemplateError:
    """A rendered prompt whose BOS or EOS are not where the template puts them."""
    return TemplateError(
        f"Template {quoted(source, 80)} came out as {quoted(rendered, 120)}, in which BOS or EOS do not stand exactly "
        "where {bos} and {eos} put them. Remove markers that spell them."
    )


# Texts


def text_not_str(value: object, where: str) -> TextError:
    """An input that is not a string, such as a collection in place of a text."""
    kind = type(value).__name__
    if isinstance(value, (bytes, bytearray)):
        return TextError(f"{where} is {quoted(value)}, of type {kind}. A text must be a str: decode it first.")
    if isinstance(value, Mapping):
        return TextError(
            f"{where} is of type {kind}, with {quoted(list(value), 80)}. A text must be a str: give the value that "
            "holds the text."
        )
    if isinstance(value, Iterable):
        return TextError(
            f"{where} is of type {kind}. A text must be a str, and several texts a list of str: pass list(texts), each "
            "text by itself."
        )
    return TextError(
        f"{where} is {quoted(value)}, of type {type(value).__name__}. A text must be a str: "
        "convert it, or leave it out."
    )


def text_blank(value: str, where: str) -> TextError:
    """An input without a single visible character."""
    return TextError(
        f"{where} is {'empty' if not value else 'blank (' + quoted(value) + ')'}. A text needs at least one visible "
        "character: leave it out, or give a placeholder of your own."
    )


def text_with_character(value: str, position: int, where: str) -> TextError:
    """An input with a character that no text holds: NUL, a control character, half a surrogate pair."""
    char = value[position]
    kind = "a lone surrogate" if "\ud800" <= char <= "\udfff" else "a control character"
    return TextError(
        f"{where} ({quoted(value[max(position - 10, 0) : position + 10])}) holds {kind}, U+{ord(char):04X}, at "
        f"position {position}. Allowed: Unicode text with tabs and line breaks. Decode it correctly, or remove the "
        "character."
    )


def text_without_tokens(value: str) -> TextError:
    """An input that this tokenizer turns into nothing."""
    return TextError(
        f"The text {quoted(value)} has no tokens under this model's tokenizer. "
        "A text needs at least one: leave it out, or choose another model."
    )


def text_spells_special(value: str) -> TextError:
    """An input that this tokenizer can only read as a special token."""
    return TextError(
        f"The text {quoted(value)} spells a special token that this tokenizer cannot read as text. "
        "Reword it, or choose another model."
    )


def text_breaks_tokenizer(value: str, reason: str) -> TextError:
    """An input on which the tokenizer's own code fails."""
    return TextError(
        f"The model's tokenizer breaks down over the text {quoted(value)}: {quoted(reason, 100)}. Leave that text out, "
        "or use another tokenizer.json."
    )


def no_room_for_text(fixed: int, context: int, copies: int = 1, *, instructed: bool = False) -> TextError:
    """A prompt that fills the context by itself."""
    remedies = ["shorten the instruction"] * instructed + ["choose a recipe that reads the text once"] * (copies > 1)
    remedy = ", or ".join([*remedies, "shorten the template", "choose a model with a longer context"][:2])
    return TextError(
        f"Template and instruction take {fixed} {'token' if fixed == 1 else 'tokens'} of a context of {context}, which "
        f"leaves no room for the text. {remedy[0].upper()}{remedy[1:]}."
    )


def instruction_unused(recipe: str, kind: str, instruction: str) -> TextError:
    """An instruction given to a template that has no place for it."""
    return TextError(
        f"Recipe {recipe!r} has no {{instruction}} slot in its {kind} template, but got the instruction "
        f"{quoted(instruction)}. Leave it out, or use a recipe with the slot, such as 'echo-finetuned-last'."
    )


def task_unknown(task: object) -> TextError:
    """A task that is neither ``query`` nor ``document``."""
    return TextError(f"Got task {quoted(task)}. Allowed: 'query' and 'document'. Leave it out for the query template.")


def prompt_name_unknown(name: object, known: Iterable[str]) -> TextError:
    """A prompt's name that is neither a kind of text nor one of the model's own."""
    names = list(known)
    return TextError(
        f"Got prompt_name {quoted(name)}. Allowed: {', '.join(map(repr, names))}. Name one of these, or add yours to "
        f"model.prompts.{near(str(name), names)}"
    )


# Recipes


def recipe_unknown(name: object, known: Iterable[str]) -> RecipeError:
    """A recipe name that is not in the table."""
    names = list(known)
    return RecipeError(
        f"There is no recipe {quoted(name)}. Known: {', '.join(names)}. "
        f"List them with 'echoembed recipes', or pass an echoembed.Recipe.{near(str(name), names)}"
    )


def recipe_bad_field(recipe: object, field: str, value: object, allowed: str) -> RecipeError:
    """A field of a recipe with a value that is not allowed."""
    return RecipeError(f"Recipe {quoted(recipe)} has {field} = {quoted(value)}. Allowed: {allowed}. Change that field.")


def recipe_tuned_for_another(recipe: str, model: str, got: str) -> RecipeError:
    """A recipe that was tuned for one model, used on another model, or on other weights or another layer of it."""
    other = f"other weights or another layer of {got}" if got == model else got
    return RecipeError(
        f"The recipe {recipe!r} was tuned for {model}, whose calibration comes with it, but it is used on {other}. "
        "Make one for this model: 'echoembed tune MODEL --texts FILE -o DIR'. Or choose the recipe 'prompteol-bag'."
    )


def recipe_file_unreadable(path: object, reason: str) -> RecipeError:
    """A file of recipes that is no TOML."""
    return RecipeError(
        f"The recipes file {path} cannot be read: {reason}. It must be TOML with a table per recipe, "
        "such as [twice] with query_template = '...'. See 'echoembed recipes --help'."
    )


def recipe_file_unknown_key(path: object, recipe: str, key: str, known: Iterable[str]) -> RecipeError:
    """An unknown key in a recipe's table."""
    names = list(known)
    return RecipeError(
        f"The recipe {recipe!r} in {path} has an unknown key {key!r}. Known: {', '.join(names)}. "
        f"Remove or rename it.{near(key, names)}"
    )
