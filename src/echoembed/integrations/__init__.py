"""Adapters for other people's tools, each a dozen lines: queries get the query template, documents the document one.

Each module needs the tool it is for, and imports it: ``from echoembed.integrations.langchain import EchoEmbeddings``.
Tools that take a model or its arguments as they are need none; ``docs/integrations.md`` says what to write for each.
"""
