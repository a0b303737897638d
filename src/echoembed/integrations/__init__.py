"""Small adapters for other tools: they read queries with the query template, and documents with the document template.

Each module imports the tool that it is for: ``from echoembed.integrations.langchain import EchoEmbeddings``. Tools that
accept a ``SentenceTransformer`` or its arguments need no adapter; ``docs/integrations.md`` shows the code for each.
"""
