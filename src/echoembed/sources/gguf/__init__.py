"""A GGUF file becomes a folder like those of other models: settings, tokenizer, safetensors. Written once, and kept.

    file.py            the file: its settings and where each tensor lies
    architectures.py   what each tensor and each setting of an architecture means to transformers
    settings.py        settings of the file → config.json
    tokenizer.py       settings of the file → tokenizer.json
    weights.py         tensors of the file → model.safetensors, one at a time
    cache.py           the folder: found, checked, or made

Never silently wrong: if a file has a tensor or a setting that is neither used nor known to change no vector, the file
is refused, and the error names the tensor or setting.
"""
