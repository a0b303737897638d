"""All errors of the project, each once. A message says what was got, what is allowed, and what to do.

A function for each situation builds the exception, so that a message has one home and one test. ``bad_value`` and
``unknown_name``, which fit any kind of error, are class methods. There is a file for each room; this file is the index.
Callers catch the classes, which all derive from ``EchoembedError``.
"""

# An index reads best as a paragraph for each room, so neither the formatter nor isort sets it one name a line.
# ruff: noqa: I001
# fmt: off
from echoembed.errors.base import (
    CorpusError, DataError, EchoembedError, EvaluationError, ExperimentError, FileError, LibraryError, ModelError,
    RecipeError, TemplateError, TextError, TrainingError, library_broken, library_misfit, library_missing, near, quoted,
)
from echoembed.errors.corpus import (
    CorpusVersionError, corpus_bad_column, corpus_busy, corpus_damaged, corpus_differs, corpus_file_changed,
    corpus_filter, corpus_foreign_folder, corpus_foreign_version, corpus_index_unwritable, corpus_input_inside,
    corpus_input_missing, corpus_missing, corpus_no_rows, corpus_option_unused, corpus_stdin, corpus_text_too_long,
    corpus_unfinished, corpus_vector_unusable, export_impossible, remote_states,
)
from echoembed.errors.evaluation import (
    data_bad_field, data_empty, data_field_missing, data_files_missing, data_folder_missing, data_folder_not_given,
    data_says_nothing, data_set_unknown, data_sets_missing, evaluation_failed, evaluation_not_a_number,
    evaluation_not_sampled, evaluation_task_unknown,
)
from echoembed.errors.gguf import (
    gguf_architecture, gguf_broken, gguf_cache_unwritable, gguf_foreign, gguf_in_folder, gguf_missing,
    gguf_pre_tokenizer, gguf_setting, gguf_split, gguf_tensor_type, gguf_tensors_missing, gguf_tensors_unused,
    gguf_tokenizer, gguf_version, package_missing, package_other_file,
)
from echoembed.errors.models import (
    adapter_merged_already, calibration_constant, calibration_leaves_nothing, calibration_not_finite,
    calibration_other_width, calibration_texts, calibration_too_few, calibration_too_many, calibration_without_head,
    model_adapter_unusable, model_adapter_vocabulary, model_attention, model_config_misfit,
    model_engine_unsupported, model_is_sentence_transformer, model_layer, model_layer_unsupported, model_module_refused,
    model_not_trainable,
    model_needs_code, model_not_language_model, model_padding_leaks, model_saved_unreadable, model_states_equal,
    model_states_not_finite, model_states_same, model_states_zero, model_token_unknown, model_unreadable,
    model_weights_missing, model_weights_unused, model_weights_whole, model_without_hindsight,
    tokenizer_added_token, tokenizer_broken, tokenizer_unsupported,
    vector_zero,
)
from echoembed.errors.prompts import (
    instruction_unused, no_room_for_text, prompt_name_unknown, recipe_bad_field, recipe_file_unknown_key,
    recipe_file_unreadable, recipe_tuned_for_another, recipe_unknown, task_unknown, template_bad_slot,
    template_pools_apart, template_pools_nothing, template_special_tokens, template_spells_special, template_unbalanced,
    template_unknown_slot, template_wants_token, template_without_text, text_blank, text_breaks_tokenizer, text_not_str,
    text_spells_special, text_with_character, text_without_tokens,
)
from echoembed.errors.server import (
    RequestError, ServerError, remote_changed, remote_refused, remote_text_too_large, remote_unreachable,
    request_content_type, request_field,
    request_field_missing, request_field_unknown, request_fields_differ, request_host, request_key,
    request_kinds_differ, request_method,
    request_model_unknown, request_no_route, request_not_finite, request_not_http, request_not_json, request_not_object,
    request_repeated_key, request_slow, request_text_too_long, request_token_ids, request_too_large,
    request_too_many_texts, request_too_many_tokens, server_address, server_busy, server_connections, server_deadline,
    server_fault, server_keys, server_memory, server_model_stopped, server_open_to_all, server_stopping,
)
from echoembed.errors.sources import (
    adapter_base_missing, adapter_config_missing, adapter_file_broken, adapter_foreign, adapter_nothing_to_save,
    adapter_other_base, adapter_unknown, hub_cache_full, hub_cache_incomplete, hub_cache_not_writable,
    hub_download_interrupted, hub_model_gated, hub_model_unknown, hub_not_cached, hub_refused, hub_revision_unknown,
    hub_unreachable, model_adapter_alone, model_config_missing, model_folder_is_file, model_folder_missing,
    model_json_broken, model_name_invalid, model_settings_too_large, model_tokenizer_missing, recipe_adapters_missing,
    revision_not_exact, revision_unused, weights_damaged, weights_missing, weights_pickled, weights_shard_missing,
)
from echoembed.errors.texts import (
    OverBudgetError, cell_unreadable, column_missing, column_twice, column_unused, csv_malformed, csv_other_delimiter,
    delimiter_bad, delimiter_unused, file_compressed, file_encoding, file_missing, file_unreadable, format_needs_file,
    format_untold, id_twice, id_unusable, json_malformed, line_too_long, no_texts, output_exists, output_is_input,
    output_not_ours, output_not_results, output_unknown, output_unwritable, result_unwritable, stream_unwritable,
    text_file_returns, text_not_utf8, text_too_long, text_unusable, too_few_texts, too_many_texts, vector_unusable,
    vectors_misshapen,
)
from echoembed.errors.training import (
    TrainingStoppedError, adapter_end_token_missing, adapter_layers_missing, adapter_start_unusable,
    adapter_targets_unknown, dropout_without_effect, head_missing, mntp_mask_token, mntp_model_unfit,
    mntp_nothing_to_predict,
    teacher_store_unusable, teacher_unusable, teacher_vector_missing, trained_weights_not_finite,
    training_batch_indivisible, training_checkpoint_not_saved, training_checkpoint_unreadable,
    training_config_unreadable, training_data_changed, training_data_missing, training_data_too_small,
    training_field_missing, training_field_unknown, training_folder_busy, training_folder_taken,
    training_groups_missing, training_instruction_missing, training_instruction_unused,
    training_negatives_missing, training_not_finite,
    training_output_unwritable, training_row_bad, training_row_field_missing, training_run_differs,
    training_run_exists, training_stopped,
)
from echoembed.errors.tune import tune_halves, tune_layer_given, tune_no_prompt, tune_too_dear, tune_too_few
