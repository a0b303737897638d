"""A GGUF file becomes a folder as other models have it: settings, tokenizer, safetensors; written once and kept.

    file.py            the file: its settings and where each tensor lies
    architectures.py   what each tensor and each setting of an architecture means to transformers
    settings.py        settings of the file → config.json
    tokenizer.py       settings of the file → tokenizer.json
    weights.py         tensors of the file → model.safetensors, one at a time
    cache.py           the folder: found, checked, or made

Never silently wrong: every tensor and every setting of a file is used, or is known to change no vector, or the file is
refused by its name.
"""
