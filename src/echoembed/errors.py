"""Every error of the project, each once: what was got, what is allowed, what to do.

A function per situation builds the exception, so that a message has one home and one test.
The classes are what a caller catches; all derive from ``EchoembedError``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any


class EchoembedError(Exception):
    """Base of all errors that a user can cause and mend. The text is one line, whatever names it quotes."""

    def __str__(self) -> str:
        return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", lambda m: ascii(m[0])[1:-1], super().__str__())


class TemplateError(EchoembedError, ValueError):
    """A template that cannot be parsed or cannot be used."""


class RecipeError(EchoembedError, ValueError):
    """A recipe that is unknown or contradicts itself."""


class TextError(EchoembedError, ValueError):
    """An input text that cannot be embedded."""


class ModelError(EchoembedError, ValueError):
    """A model that cannot be found, read, or used as the recipe asks."""


class ExperimentError(EchoembedError, ValueError):
    """An experiment that is unknown."""


class FileError(EchoembedError, OSError):
    """An input or output file that cannot be read or written."""


class DataError(EchoembedError, ValueError):
    """A data set for an evaluation that is missing or malformed."""


class EvaluationError(EchoembedError, RuntimeError):
    """An evaluation that cannot be started, or of which a part failed.

    Attributes:
        scores: The scores (``echoembed.evaluation.store.Score``) of the tasks that did not fail.
        failures: What each other task failed of, by name.
    """

    def __init__(
        self, message: str, scores: Sequence[Any] = (), failures: Mapping[str, BaseException] | None = None
    ) -> None:
        super().__init__(message)
        self.scores = list(scores)
        self.failures = dict(failures or {})


def quoted(value: object, limit: int = 40) -> str:
    """The value as a message shows it: its ``repr`` on one line, cut after ``limit`` characters."""
    shown = ascii(value) if isinstance(value, (bytes, bytearray)) else repr(value)
    return shown if len(shown) <= limit else shown[:limit] + "…"


def near(name: str, known: Iterable[str]) -> str:
    """A hint such as `` Did you mean 'echo'?``, or nothing."""
    matches = get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


# Templates


def _slot_at(source: str, slot: str, ending: str = "") -> int:
    """Position of the first such slot, of those with such an ending."""
    found = re.search(r"\{" + re.escape(slot) + ending + r"(?=[}:!])", source)
    return found.start() if found else 0


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
        f"A slot is written {{{slot}}}, or {{{slot}:pool}} where it is pooled."
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
    """A literal that spells a special token, which it will not become."""
    return TemplateError(
        f"Template {quoted(source, 80)} spells the special token {quoted(token)} as text at position "
        f"{max(source.find(token), 0)}. Write {{bos}} or {{eos}}, or declare the token among the recipe's markers."
    )


def template_wants_token(source: str, slot: str) -> TemplateError:
    """A template whose special token the tokenizer lacks."""
    return TemplateError(
        f"Template {quoted(source, 80)} puts {{{slot}}} at position {_slot_at(source, slot)}, but this "
        f"tokenizer has no such token. Choose a recipe without {{{slot}}}, or set the token in tokenizer_config.json."
    )


def template_special_tokens(source: str, rendered: str) -> TemplateError:
    """A rendered prompt with another number of BOS or EOS than the template puts."""
    return TemplateError(
        f"Template {quoted(source, 80)} came out as {quoted(rendered, 120)}, in which BOS or EOS do not stand exactly "
        "where {bos} and {eos} put them. Remove markers that spell them."
    )


# Texts


def text_not_str(value: object, where: str) -> TextError:
    """An input that is not a string."""
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
    """An input that would become a special token whatever is done."""
    return TextError(
        f"The text {quoted(value)} spells a special token that this tokenizer cannot read as text. "
        "Reword it, or choose another model."
    )


def no_room_for_text(fixed: int, context: int) -> TextError:
    """A prompt that fills the context by itself."""
    return TextError(
        f"Template and instruction take {fixed} tokens of a context of {context}, which leaves no room for the text. "
        "Shorten the instruction, or choose a recipe that reads the text once."
    )


def text_over_budget(text: str, dropped: int, room: int) -> TextError:
    """A text over the budget, where that is refused."""
    return TextError(
        f"The text {quoted(text)} is {dropped} tokens over the {room} that are read of a text. "
        "Shorten it, raise the budget, or allow it to be cut (overflow='warn')."
    )


def instruction_unused(recipe: str, kind: str, instruction: str) -> TextError:
    """An instruction given to a template that has no place for it."""
    return TextError(
        f"Recipe {recipe!r} has no {{instruction}} slot in its {kind} template, but got the instruction "
        f"{quoted(instruction)}. Leave it out, or use a recipe with the slot, such as 'echo-finetuned-last'."
    )


def task_unknown(task: object) -> TextError:
    """A task that is neither of the two."""
    return TextError(f"Got task {quoted(task)}. Allowed: 'query' and 'document'. Leave it out for the query template.")


# Recipes


def recipe_unknown(name: object, known: Iterable[str]) -> RecipeError:
    """A recipe name that is not in the table."""
    names = list(known)
    return RecipeError(
        f"There is no recipe {quoted(name)}. Known: {', '.join(names)}. "
        f"List them with 'echoembed recipes', or pass an echoembed.Recipe.{near(str(name), names)}"
    )


def recipe_bad_field(recipe: object, field: str, value: object, allowed: str) -> RecipeError:
    """A field of a recipe that cannot be."""
    return RecipeError(f"Recipe {quoted(recipe)} has {field} = {quoted(value)}. Allowed: {allowed}. Change that field.")


def recipe_file_unreadable(path: object, reason: str) -> RecipeError:
    """A file of recipes that is no TOML."""
    return RecipeError(
        f"The recipes file {path} cannot be read: {reason}. It must be TOML with a table per recipe, "
        "such as [twice] with query_template = '...'. See 'echoembed recipes --help'."
    )


def recipe_file_unknown_key(path: object, recipe: str, key: str, known: Iterable[str]) -> RecipeError:
    """A key of a recipe's table that means nothing."""
    names = list(known)
    return RecipeError(
        f"The recipe {recipe!r} in {path} has an unknown key {key!r}. Known: {', '.join(names)}. "
        f"Remove or rename it.{near(key, names)}"
    )


# Models


def tokenizer_unsupported(kind: str) -> ModelError:
    """A tokenizer that is not built on the ``tokenizers`` library."""
    return ModelError(
        f"The model's tokenizer is a {kind}, which has no 'tokenizers' backend. Exact spans need one: "
        "add a tokenizer.json to the model's folder."
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
        "A model is a folder with config.json, a tokenizer and safetensors weights; fetch it again or choose another."
    )


def model_token_unknown(name: str, id_: int, size: int) -> ModelError:
    """A tokenizer of another model."""
    return ModelError(
        f"{name} has embeddings for {size} tokens, but its tokenizer gives the id {id_}. Both must be of one model: "
        "fetch it again, or choose another."
    )


def model_weights_missing(name: str, keys: Iterable[str]) -> ModelError:
    """Weights that the file lacks and that would silently be random."""
    listed = list(keys)
    return ModelError(
        f"{name} lacks {len(listed)} of its weights ({', '.join(listed[:3])}{', …' if len(listed) > 3 else ''}), which "
        "would be random. All must be there: fetch the model again, or choose the one its config.json is of."
    )


def model_weights_unused(name: str, keys: Iterable[str]) -> ModelError:
    """Weights inside the layers that the configuration has no place for."""
    listed = list(keys)
    return ModelError(
        f"{name} holds {len(listed)} weights that its config.json has no place for ({', '.join(listed[:3])}"
        f"{', …' if len(listed) > 3 else ''}). Without them it would be another model: use the config.json they are of."
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
    """A layer that is not there."""
    return ModelError(
        f"{name} has {count} layers, but layer {layer} was asked for. Allowed: 0 (the token embeddings) to {count}, "
        f"or -1 (the last) to {-count - 1}."
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


def model_bad_option(option: str, value: object, allowed: str) -> ModelError:
    """An argument of ``load`` that cannot be."""
    return ModelError(f"Got {option} = {quoted(value)}. Allowed: {allowed}. Change that argument.")


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


def model_adapter_misfit(name: str, adapter: str, keys: Iterable[str]) -> ModelError:
    """An adapter for another model."""
    listed = list(keys)
    return ModelError(
        f"The adapter {adapter} does not fit {name}: {len(listed)} weights have no place ({', '.join(listed[:2])}). "
        "Merge it into the model that its adapter_config.json names."
    )


def model_engine_unsupported(name: str, reason: str) -> ModelError:
    """A model that the packed engine cannot run, where it was insisted on."""
    return ModelError(
        f"{name} cannot run on the packed engine: {reason}. Allowed for it: engine=None or engine='padded', "
        "without deterministic=True. Leave the argument out."
    )


def model_exists(path: object) -> FileError:
    """A folder that is there already."""
    return FileError(
        f"{path} exists already. A model is saved to a new folder: choose another, or pass overwrite=True."
    )


def model_not_saved(path: object, reason: str) -> FileError:
    """A folder that cannot be written."""
    return FileError(
        f"The model cannot be saved to {path}: {quoted(reason, 120)}. Nothing was left there. It needs a folder that "
        "can be written and room for the weights: free some, or choose another."
    )


def extra_missing(extra: str, purpose: str) -> ModelError:
    """An optional library that is not installed."""
    return ModelError(f"{purpose} needs an extra library. Install it: pip install 'echoembed[{extra}]'.")


# Reading texts and writing vectors


def file_missing(name: str) -> FileError:
    """An input that looks like a file, where there is none."""
    return FileError(
        f"There is no file {quoted(name, 200)}. Give the path of one; if these are words to embed, give them as --text."
    )


def file_unreadable(name: str, reason: str) -> FileError:
    """An input that is there and cannot be read."""
    return FileError(f"{quoted(name, 200)} cannot be read: {reason}. It must be whole, and yours to read.")


def file_format_unknown(name: str, allowed: Iterable[str]) -> FileError:
    """An input whose name does not say how to read it."""
    return FileError(
        f"The name {quoted(name, 200)} does not tell a format. Allowed: {', '.join(allowed)}. "
        "Say --format, or if these are words to embed, give them as --text."
    )


def format_unknown(format_: object, allowed: Iterable[str]) -> FileError:
    """A format asked for by name that is none."""
    known = list(allowed)
    return FileError(f"Got format {quoted(format_)}. Allowed: {', '.join(known)}.{near(str(format_), known)}")


def format_needs_file(format_: str) -> FileError:
    """A format that cannot be read from a stream."""
    return FileError(f"Standard input cannot be read as {format_}, whose index is at its end. Give a file.")


def line_too_long(where: str, limit: int) -> FileError:
    """A line that nobody meant as one text."""
    return FileError(
        f"{where} is longer than {limit:,} bytes. A line holds one text: give a text file with line breaks."
    )


def text_not_utf8(where: str, byte: int, value: int) -> TextError:
    """Bytes that are no text; ``byte`` counts from 1 within the line."""
    return TextError(
        f"{where} is not UTF-8: byte {byte} is 0x{value:02X}. Convert the file (iconv -f latin1 -t utf-8), or leave "
        "the line out."
    )


def json_malformed(where: str, reason: str) -> FileError:
    """A line of a JSONL file that is no JSON object."""
    return FileError(f'{where} is no JSON object: {reason}. Every line must be one, such as {{"text": "…"}}.')


def csv_malformed(where: str, reason: str) -> FileError:
    """A CSV record that does not parse."""
    return FileError(f"{where} is no CSV record: {reason}. Quote cells that hold commas, quotes or line breaks.")


def column_missing(where: str, column: str, known: Iterable[str]) -> FileError:
    """A column that was asked for and is not there."""
    names = list(known)
    shown = ", ".join(quoted(name) for name in names[:12]) + (", …" if len(names) > 12 else "")
    return FileError(
        f"{where} has no column {quoted(column)}. It has: {shown or 'none'}. Choose with --column and --id-column."
        f"{near(column, names)}"
    )


def column_twice(where: str, column: str) -> FileError:
    """A column name that stands for two columns."""
    return FileError(f"{where} has two columns named {quoted(column)}. Names must differ: rename one.")


def id_unusable(where: str, value: object) -> FileError:
    """An id that is neither a word nor a whole number."""
    return FileError(
        f"{where} has the id {quoted(value)}. Allowed: a string that is not blank, or a whole number. Mend it, or "
        "leave out --id-column to number the texts."
    )


def id_twice(id_: str, where: str, first: str) -> FileError:
    """An id that two texts have."""
    return FileError(
        f"{where} has the id {quoted(id_)}, as {first} has. Ids must differ: mend them, or leave out --id-column."
    )


class OverBudgetError(TextError):
    """A text over the budget, where that is refused: a choice of its own, whatever else is left out."""


def text_unusable(where: str, reason: str) -> TextError:
    """A text that only the model finds to be none, with its place."""
    return TextError(f"{where}: {reason.removesuffix('.')}.")


def text_too_long(where: str, dropped: int, room: int) -> OverBudgetError:
    """A text over the budget, with its place."""
    return OverBudgetError(
        f"{where} is {dropped:,} tokens over the {room:,} that are read of a text. Shorten it, raise --budget, or "
        "allow it to be cut with --on-overflow warn."
    )


def no_texts(names: Iterable[str], skipped: int = 0) -> TextError:
    """Inputs without any text."""
    found = f"only {skipped:,} that cannot be embedded" if skipped else "none"
    return TextError(f"A text is needed, and {', '.join(names) or 'the input'} holds {found}. Give at least one.")


def too_many_texts(limit: int) -> TextError:
    """More texts than a comparison of every pair can show."""
    return TextError(f"Got more than {limit} texts. Every pair is shown: give at most {limit}, or use 'embed'.")


def too_few_texts(count: int) -> TextError:
    """Fewer texts than a comparison takes."""
    return TextError(f"Got {count} text. A comparison takes at least 2: give another.")


def output_unknown(path: object, allowed: Iterable[str]) -> FileError:
    """An output whose name does not say how to write it."""
    return FileError(
        f"The name {quoted(str(path), 200)} does not tell a format to write. Allowed: {', '.join(allowed)}. Rename it."
    )


def output_exists(path: object) -> FileError:
    """An output that would replace a file."""
    return FileError(f"{quoted(str(path), 200)} exists already. Choose another name, or allow it with --overwrite.")


def output_unwritable(path: object, reason: str) -> FileError:
    """An output that cannot be written; what was begun has been removed."""
    return FileError(
        f"{quoted(str(path), 200)} cannot be written: {reason}. Nothing of it was left. It needs a folder that can be "
        "written, with room: free some, or choose another."
    )


def stream_unwritable(reason: str) -> FileError:
    """Standard output that takes no more."""
    return FileError(
        f"Standard output cannot be written: {reason}. What it got is not whole. Write a file with --output, which is "
        "whole or not there."
    )


def vector_unusable(where: str, reason: str) -> ModelError:
    """A vector that is no embedding."""
    return ModelError(
        f"The vector of {where} {reason}. Nothing was written: a vector must be finite and not zero. Try "
        "--dtype float32, or another model."
    )


def vectors_misshapen(wanted: str, got: tuple[int, ...]) -> ModelError:
    """An array of vectors that does not fit its texts."""
    return ModelError(f"Got vectors of shape {got}. Due: {wanted}. Encode to one array with a row for each text.")


# Finding and reading a model


def model_name_invalid(name: object, reason: str) -> ModelError:
    """A model's name that names neither a folder nor anything the hub could have."""
    return ModelError(
        f"{quoted(name, 120)} is not a model's name: {reason}. A model is a local folder, a name on the hub such as "
        "'Qwen/Qwen3-0.6B', or None for the bundled one. Correct the name."
    )


def model_folder_missing(name: str) -> ModelError:
    """A path at which there is no folder."""
    return ModelError(
        f"The folder {quoted(name, 200)} does not exist. A model is a local folder, or a name on the hub such as "
        "'Qwen/Qwen3-0.6B', with one slash at most. Check the path."
    )


def model_folder_is_file(name: str) -> ModelError:
    """A path at which there is a file."""
    return ModelError(
        f"{quoted(name, 200)} is a file. A model is a folder with config.json, a tokenizer and safetensors. "
        "Give the folder that holds them."
    )


def model_folder_unreadable(name: str, reason: str) -> FileError:
    """A model's folder or file that the system will not let us read."""
    return FileError(
        f"The files of {quoted(name, 200)} cannot be read: {reason}. All of them must be readable. "
        "Check their permissions and the disk."
    )


def revision_not_exact(revision: object) -> ModelError:
    """A revision that could mean other bytes tomorrow."""
    return ModelError(
        f"The revision {quoted(revision, 80)} is not exact. It must be 40 hexadecimal digits, in lower case. "
        "Let echoembed.source.resolve find it."
    )


def revision_of_folder(name: str, revision: str) -> ModelError:
    """A revision asked of a folder, which has but one."""
    return ModelError(
        f"Got revision {quoted(revision, 80)} for the folder {quoted(name, 200)}. Only a model on the hub has "
        "revisions; a folder's is the hash of its content. Leave it out, or give the model's name on the hub."
    )


def model_config_missing(where: str) -> ModelError:
    """A folder or a model on the hub that says nothing of its architecture."""
    return ModelError(
        f"{quoted(where, 200)} has no config.json. A model has config.json, a tokenizer and safetensors at its root. "
        "Give the folder or model that has them."
    )


def model_adapter_alone(where: str) -> ModelError:
    """An adapter without the model it belongs to."""
    return ModelError(
        f"{quoted(where, 200)} has no config.json, only an adapter (adapter_config.json). A model must have its own "
        "weights. Merge the adapter into its base with peft's merge_and_unload and save both model and tokenizer."
    )


def adapter_config_missing(where: str) -> ModelError:
    """An adapter without its configuration."""
    return ModelError(
        f"{quoted(where, 200)} has no adapter_config.json, so it is no adapter. "
        "Name a folder or a repository that peft has saved."
    )


def model_tokenizer_missing(where: str) -> ModelError:
    """A folder or a model on the hub without a tokenizer."""
    return ModelError(
        f"{quoted(where, 200)} has no tokenizer. Allowed: tokenizer.json, vocab.json with merges.txt, vocab.txt, or "
        "a SentencePiece *.model. Save the tokenizer there with its save_pretrained."
    )


def model_json_broken(path: str, reason: str) -> ModelError:
    """A settings file that does not say what it should."""
    return ModelError(
        f"{quoted(path, 200)} is broken: {reason}. It must be JSON as save_pretrained writes it. "
        "Copy or download it again."
    )


def weights_missing(where: str) -> ModelError:
    """A model without weights in any form that could be read."""
    return ModelError(
        f"{quoted(where, 200)} has no weights to load. Allowed: model.safetensors, or model.safetensors.index.json "
        "with its shards, and adapter_model.safetensors for an adapter. Save the model with save_pretrained."
    )


def weights_pickled(where: str, files: Iterable[str]) -> ModelError:
    """Weights that only unpickling could read, which may run any code."""
    names = list(files)
    return ModelError(
        f"{quoted(where, 200)} has pickled weights ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}) and no "
        "safetensors. Pickles can run code and are refused. Convert them: where you trust the model, load it with "
        "transformers and save_pretrained() it, or use https://huggingface.co/spaces/safetensors/convert."
    )


def weights_shard_missing(where: str, files: Iterable[str]) -> ModelError:
    """An index that names files that are not there."""
    names = list(files)
    return ModelError(
        f"{quoted(where, 200)} lacks {len(names)} file(s) that model.safetensors.index.json names: "
        f"{', '.join(names[:3])}{', …' if len(names) > 3 else ''}. Every shard must be there. "
        "Copy or download the missing ones."
    )


def weights_damaged(path: str, reason: str) -> ModelError:
    """A safetensors file that is cut short, garbled, or another model's."""
    return ModelError(
        f"{quoted(path, 200)} is damaged: {reason}. The file must be whole and belong to this model. "
        "Copy or download it again."
    )


def hub_model_unknown(name: str, endpoint: str) -> ModelError:
    """A name that the hub does not know, or does not show to this user."""
    return ModelError(
        f"There is no model {quoted(name, 120)} at {endpoint}, or it is private. Names on the hub look like "
        "'Qwen/Qwen3-0.6B'. Check the spelling, log in with `hf auth login` for a private model, or give the path "
        "of a folder that exists."
    )


def hub_model_gated(name: str, endpoint: str) -> ModelError:
    """A model whose licence has to be accepted first."""
    return ModelError(
        f"The model {quoted(name, 120)} is gated: its licence must be accepted before its files can be had. "
        f"Accept it at {endpoint}/{name.partition('@')[0]}, then log in with `hf auth login`."
    )


def hub_revision_unknown(name: str, revision: str) -> ModelError:
    """A branch, tag or commit that the model does not have."""
    return ModelError(
        f"The model {quoted(name, 120)} has no revision {quoted(revision, 80)}. Allowed: a branch, a tag or a commit "
        "of 40 digits. Leave it out for the main branch."
    )


def hub_refused(name: str, status: int, reason: str) -> ModelError:
    """An answer that says neither why nor what to do."""
    return ModelError(
        f"The hub answered {status} to the request for {quoted(name, 120)} ({reason}). "
        "Check your account with `hf auth whoami`, or try again later."
    )


def hub_unreachable(name: str, reason: str) -> ModelError:
    """No connection, and nothing in the cache to use instead."""
    return ModelError(
        f"The hub cannot be reached for {quoted(name, 120)} ({reason}), and the cache has no copy. "
        "Check the connection and HF_ENDPOINT, or give a local folder."
    )


def hub_not_cached(name: str, reason: str) -> ModelError:
    """Offline by choice, and nothing in the cache."""
    return ModelError(
        f"The model {quoted(name, 120)} is not in the cache ({reason}). Offline, only models that were downloaded "
        "before can be used. Load it once without local_files_only and HF_HUB_OFFLINE, or give a local folder."
    )


def hub_cache_incomplete(name: str, revision: str, missing: str) -> ModelError:
    """A download of which something is missing or damaged, as one that was interrupted leaves it."""
    return ModelError(
        f"The cached copy of {quoted(name, 120)} at {revision} is incomplete or damaged: {missing}. Every file must "
        "be there, whole. Load it once with a connection, without local_files_only and HF_HUB_OFFLINE."
    )


def hub_download_interrupted(name: str, reason: str) -> ModelError:
    """A download that broke off."""
    return ModelError(
        f"The download of {quoted(name, 120)} broke off ({reason}). No partial file is ever used. "
        "Check the connection and load it again: files that have arrived are kept."
    )


def hub_cache_full(name: str, folder: str) -> FileError:
    """No room for a download."""
    return FileError(
        f"The disk is full: {quoted(name, 120)} does not fit into {quoted(folder, 200)}. No partial file is ever used. "
        "Free some space (`hf cache rm`), or set HF_HOME to a larger disk."
    )


def hub_cache_not_writable(name: str, folder: str) -> FileError:
    """A cache that cannot take a download."""
    return FileError(
        f"{quoted(name, 120)} cannot be downloaded into {quoted(folder, 200)}: it is not writable. "
        "Check its permissions, or set HF_HOME to a folder of yours."
    )


# Evaluation

_LAYOUT = "sts/NAME/test.jsonl, pair/, classification/, clustering/, retrieval/ or reranking/NAME/…"


def data_folder_missing(folder: object) -> DataError:
    """A folder of data sets that is not there."""
    return DataError(f"There is no folder {quoted(str(folder), 200)}. Name the one that holds {_LAYOUT}.")


def data_folder_not_given() -> DataError:
    """Local data sets asked for, and no folder."""
    return DataError(f"The tasks 'local' need a folder of data sets. Give one with --data; it holds {_LAYOUT}.")


def data_sets_missing(folder: object, kinds: Iterable[str]) -> DataError:
    """A folder without any data set."""
    return DataError(
        f"Found no data set in {quoted(str(folder), 200)}: looked for KIND/NAME/, with KIND one of {', '.join(kinds)}. "
        "Put yours there, such as sts/mine/test.jsonl."
    )


def data_files_missing(name: str, folder: object, needed: str) -> DataError:
    """A data set that lacks a file."""
    return DataError(
        f"The data set {name!r} lacks a file: looked in {quoted(str(folder), 200)} for {needed}, each with .gz or "
        "without. Add what is missing, or leave the data set out."
    )


def data_field_missing(where: str, field: str, known: Iterable[str]) -> DataError:
    """A row without a field that its kind needs."""
    names = list(known)
    return DataError(f"{where} has no {field!r}; it has {', '.join(names) or 'nothing'}. Add it.{near(field, names)}")


def data_bad_field(where: str, field: str, value: object, allowed: str) -> DataError:
    """A field that is not what it must be."""
    return DataError(f"{where} has {field} = {quoted(value)}. It must be {allowed}. Correct that line.")


def data_empty(path: object) -> DataError:
    """A file without a row."""
    return DataError(f"{path} holds no row. A data set needs at least one: fill it, or leave the data set out.")


def data_says_nothing(path: object, reason: str) -> DataError:
    """Data that no model could be told apart by."""
    return DataError(f"Nothing can be scored on {path}: {reason}. Use more varied data, or more texts of it.")


def evaluation_task_unknown(name: str, known: Iterable[str], where: str) -> EvaluationError:
    """A task that is not there."""
    names = list(known)
    listed = f" Known: {', '.join(names)}." if len(names) <= 60 else f" There are {len(names)}."
    place = f" in {where}" if where else ""
    return EvaluationError(
        f"There is no task {quoted(name)}{place}.{listed} A task is a data set or kind in the folder given with "
        f"--data, a benchmark ('MTEB(eng, v1)', 'mteb-mini', 'local'), or an mteb task.{near(name, names)}"
    )


def evaluation_not_sampled(name: str) -> EvaluationError:
    """A sample asked for of a task that mteb loads."""
    return EvaluationError(
        f"Got a limit of texts for {quoted(name)}, which mteb loads whole. Only local data sets can be sampled: "
        "leave out --max-texts, or choose local tasks."
    )


def evaluation_option(option: str, value: object, allowed: str) -> EvaluationError:
    """An argument of an evaluation that cannot be."""
    return EvaluationError(f"Got {option} = {quoted(value)}. Allowed: {allowed}. Change that argument.")


def evaluation_not_a_number(task: str, metric: str, value: object) -> EvaluationError:
    """A score that is no number."""
    return EvaluationError(
        f"The task {task!r} gave {metric} = {value}, which is no number: its vectors or its data do not differ. "
        "Check both."
    )


def evaluation_failed(scores: Sequence[object], failures: Mapping[str, BaseException]) -> EvaluationError:
    """Tasks that failed, said after the others have been run."""
    reasons = "; ".join(f"{task}: {type(error).__name__}: {error}" for task, error in failures.items())
    return EvaluationError(
        f"{len(failures)} of {len(failures) + len(scores)} tasks failed ({reasons}). The other scores are kept; "
        "mend these and run again.",
        scores,
        failures,
    )


# Experiments


def experiment_unknown(name: str, known: Iterable[str]) -> ExperimentError:
    """A figure or table that the project does not have."""
    names = list(known)
    return ExperimentError(
        f"Got experiment {quoted(name)}. Allowed: {', '.join(names)}. Choose one of these.{near(name, names)}"
    )
