"""From a model's name to a folder of safe files with an exact revision.

Reads the hub, folders, installed packages and GGUF files; never loads a model.
"""
