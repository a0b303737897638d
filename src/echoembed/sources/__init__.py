"""From a name to a folder of safe files with an exact revision.

Knows the hub, folders, installed packages and GGUF files; never opens a model.
"""
