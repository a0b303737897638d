"""Converts a GGUF file into a folder like those of other models: settings, tokenizer, safetensors. Done once per file.

    file.py            the file: its settings and where each tensor lies
    architectures.py   the names of each architecture's tensors and settings in transformers
    settings.py        settings of the file → config.json
    tokenizer.py       settings of the file → tokenizer.json
    weights.py         tensors of the file → model.safetensors, one at a time
    cache.py           the folder: looked up and checked, or made

Never silently wrong: every tensor and every setting of a file must be used, or be known not to change any vector. A
file with any other is refused with an error that names the tensor or setting.
"""
